import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milsurv.errors import SlideError
from milsurv.slides.geojson import GeoJsonConfig, GeoJsonTissue, write_geojson
from milsurv.slides.reader import OpenSlideSlide, Slide, thumbnail_downsample, thumbnail_size
from milsurv.slides.tissue import OtsuConfig, OtsuTissue, TissueMask, picture_px
from tests.slides.make_slides import stained, write_slide
from tests.slides.test_reader import REAL_SLIDE

SQUARE = [[[100, 100], [900, 100], [900, 500], [100, 500], [100, 100]]]
HOLE = [[200, 200], [400, 200], [400, 400], [200, 400], [200, 200]]


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "a b.svs", stained(1200, 800), mpp=0.5)


def segment(slide_file: Path, folder: Path, drawn: Any, mpp: float = 8.0) -> TissueMask:
    text = drawn if isinstance(drawn, str) else json.dumps(drawn)
    (folder / f"{slide_file.stem}.geojson").write_text(text)
    with OpenSlideSlide(slide_file) as slide:
        return GeoJsonTissue(GeoJsonConfig(folder=folder, mpp=mpp)).segment(slide)


def feature(coordinates: Any, name: str | None = None, kind: str = "Polygon") -> dict[str, Any]:
    properties = {} if name is None else {"classification": {"name": name}}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


@dataclass
class Size:
    """As much of a slide as a drawn mask needs."""

    path: Path
    dimensions: tuple[int, int]
    mpp: float


@given(
    dimensions=st.tuples(st.integers(8, 500), st.integers(8, 500)),
    mpp=st.sampled_from([0.25, 0.46, 0.499, 2.0, 9.0]),
    share=st.sampled_from([0.2, 0.5, 0.8]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_as_the_same_mask(
    dimensions: tuple[int, int], mpp: float, share: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "round trip"
    folder.mkdir(exist_ok=True)
    slide = Size(folder / "a.svs", dimensions, mpp)
    downsample = thumbnail_downsample(dimensions, picture_px(cast(Slide, slide), 8.0))
    width, height = thumbnail_size(dimensions, downsample)
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[height // 2, width // 2] = True
    write_geojson(TissueMask(mask, downsample), folder / "a.geojson")
    for piece in json.loads((folder / "a.geojson").read_text())["features"]:
        for ring in piece["geometry"]["coordinates"]:
            assert len({tuple(point) for point in ring}) == len(ring) - 1  # it touches itself nowhere
    read = GeoJsonTissue(GeoJsonConfig(folder=folder)).segment(cast(Slide, slide))
    assert read.downsample == downsample
    np.testing.assert_array_equal(read.mask, mask)


def test_a_real_slides_tissue(tmp_path: Path) -> None:
    with OpenSlideSlide(REAL_SLIDE) as slide:
        tissue = OtsuTissue(OtsuConfig()).segment(slide)
        write_geojson(tissue, tmp_path / f"{REAL_SLIDE.stem}.geojson")
        read = GeoJsonTissue(GeoJsonConfig(folder=tmp_path)).segment(slide)
    assert read.downsample == tissue.downsample
    np.testing.assert_array_equal(read.mask, tissue.mask)
    written = json.loads((tmp_path / f"{REAL_SLIDE.stem}.geojson").read_text())
    assert {found["properties"]["classification"]["name"] for found in written["features"]} == {"Tissue"}
    assert {found["properties"]["objectType"] for found in written["features"]} == {"annotation"}
    for found in written["features"]:
        for ring in found["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]


@given(st.lists(st.tuples(st.floats(-200, 1400), st.floats(-200, 1000)), min_size=3, max_size=9, unique=True))
@settings(max_examples=25, deadline=None)
def test_a_drawn_polygon_is_filled_where_a_ray_crosses_it_an_odd_number_of_times(
    slide_file: Path, tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "drawn"
    folder.mkdir(exist_ok=True)
    read = segment(slide_file, folder, feature([[list(point) for point in points]]))
    rows, columns = np.indices(read.mask.shape)
    centres = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) * read.downsample
    crossings = sum(
        _crosses(centres, np.array(start), np.array(end))
        for start, end in zip(points, [*points[1:], points[0]], strict=True)
    )
    np.testing.assert_array_equal(read.mask.ravel(), np.asarray(crossings) % 2 == 1)


def _crosses(centres: Any, start: Any, end: Any) -> Any:
    """1 where a ray from a centre to the left crosses the edge."""
    lower, upper = (start, end) if start[1] <= end[1] else (end, start)
    within = (lower[1] <= centres[:, 1]) & (centres[:, 1] < upper[1])
    height = upper[1] - lower[1]
    at = lower[0] + (centres[:, 1] - lower[1]) / (height or 1) * (upper[0] - lower[0])
    return (within & (at <= centres[:, 0])).astype(int)


def test_all_that_qupath_writes(slide_file: Path, tmp_path: Path) -> None:
    whole = segment(slide_file, tmp_path, feature(SQUARE)).mask
    assert whole.sum() == 50 * 25
    for drawn in (
        {"type": "FeatureCollection", "features": [feature(SQUARE)]},
        [feature(SQUARE, "Tumor")],
        feature(SQUARE)["geometry"],
        feature([SQUARE], kind="MultiPolygon"),
        {"type": "GeometryCollection", "geometries": [feature(SQUARE)["geometry"]]},
        [feature(SQUARE), feature([[[112, 112], [208, 112], [208, 208], [112, 208]]])],
    ):
        np.testing.assert_array_equal(segment(slide_file, tmp_path, drawn).mask, whole)
    with_hole = segment(slide_file, tmp_path, feature([*SQUARE, HOLE])).mask
    for name in ("Ignore*", "Exclude", "ignored artefact", "Necrosis*"):
        cut = segment(slide_file, tmp_path, [feature(SQUARE, "Tissue"), feature([HOLE], name)]).mask
        np.testing.assert_array_equal(cut, with_hole)
    assert whole.sum() - with_hole.sum() == pytest.approx(12.5**2, abs=13)


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        ("{not json", "cannot be used: Expecting property name"),
        ({"type": "FeatureCollection", "features": []}, "it holds no polygon"),
        (feature([1, 2], kind="Point"), "it holds 'Point', allowed are polygons and multipolygons"),
        (17, "it holds '17', allowed are polygons"),
        (feature([[[1, 1], [2, 2]]]), "three points or more"),
        (feature([[[1, 1], [2, 2], ["a", 3]]]), "no lists of"),
        (feature([[[1, 1], [2, 2], [float("inf"), 3]]]), "finite numbers"),
        (feature(None), "no lists of"),
        (feature([]), "no ring of points"),
        (feature(None, kind="MultiPolygon"), "cannot be used"),
        (feature(7, kind="MultiPolygon"), "cannot be used"),
        (feature([[[10**400, 1], [2, 2], [3, 5]]]), "no lists of"),
        (feature([[[1, 1], [2, 2], [1, 1]]]), "three points or more"),
        ({**feature(SQUARE), "properties": [1]}, "cannot be used"),
        ({**feature(SQUARE), "properties": {"classification": "Tissue"}}, "cannot be used"),
        ({**feature(SQUARE), "properties": {"objectType": "cell"}}, "it holds no polygon"),
    ],
)
def test_what_cannot_be_used_is_said(slide_file: Path, tmp_path: Path, drawn: Any, reason: str) -> None:
    with pytest.raises(SlideError, match=rf"a b\.geojson.*{reason}"):
        segment(slide_file, tmp_path, drawn)


def test_a_slide_without_a_file(slide_file: Path, tmp_path: Path) -> None:
    tissue = GeoJsonTissue(GeoJsonConfig(folder=tmp_path))
    with OpenSlideSlide(slide_file) as slide, pytest.raises(SlideError, match=r"a b\.geojson cannot be read"):
        tissue.segment(slide)
    with pytest.raises(SlideError, match=r"a b\.geojson cannot be read"):
        tissue.source(slide_file)
