import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.errors import SlideError
from milsurv.slides.geojson import GeoJsonConfig, GeoJsonTissue
from milsurv.slides.outlines import write_geojson
from milsurv.slides.reader import OpenSlideSlide, Slide, thumbnail_downsample, thumbnail_size
from milsurv.slides.tissue import OtsuConfig, OtsuTissue, TissueMask, picture_px
from tests.slides.make_slides import stained, write_scn, write_slide
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
    qupath_origin: tuple[int, int] = (0, 0)

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        x, y = self.qupath_origin
        return x, y, self.dimensions[0] - x, self.dimensions[1] - y


@given(
    dimensions=st.tuples(st.integers(8, 500), st.integers(8, 500)),
    mpp=st.sampled_from([0.25, 0.46, 0.499, 2.0, 9.0]),
    share=st.sampled_from([0.2, 0.5, 0.8]),
    origin=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_as_the_same_mask(
    dimensions: tuple[int, int],
    mpp: float,
    share: float,
    origin: tuple[int, int],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "round trip"
    folder.mkdir(exist_ok=True)
    slide = Size(folder / "a.svs", dimensions, mpp, origin)
    downsample = thumbnail_downsample(dimensions, picture_px(cast(Slide, slide), 8.0))
    width, height = thumbnail_size(dimensions, downsample)
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[height // 2, width // 2] = True
    write_geojson(TissueMask(mask, downsample), folder / "a.geojson", origin)
    for piece in json.loads((folder / "a.geojson").read_text())["features"]:
        for ring in piece["geometry"]["coordinates"]:
            assert len({tuple(point) for point in ring}) == len(ring) - 1  # it touches itself nowhere
    read = GeoJsonTissue(GeoJsonConfig(folder=folder)).segment(cast(Slide, slide))
    assert read.downsample == downsample
    np.testing.assert_array_equal(read.mask, mask)


def test_a_real_slides_tissue(tmp_path: Path) -> None:
    with OpenSlideSlide(REAL_SLIDE) as slide:
        tissue = OtsuTissue(OtsuConfig()).segment(slide)
        write_geojson(tissue, tmp_path / f"{REAL_SLIDE.stem}.geojson", slide.qupath_origin)
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
    corner = [
        [[0, 0], [16, 0], [16, 16], [0, 16]]
    ]  # a pixel of the mask, so that some tissue is on the slide
    drawn = [feature([[list(point) for point in points]]), feature(corner)]
    read = segment(slide_file, folder, drawn)
    rows, columns = np.indices(read.mask.shape)
    centres = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) * read.downsample
    crossings = sum(
        _crosses(centres, np.array(start), np.array(end))
        for start, end in zip(points, [*points[1:], points[0]], strict=True)
    )
    within = (np.asarray(crossings) % 2 == 1) | (centres < 16).all(axis=1)
    np.testing.assert_array_equal(read.mask.ravel(), within)


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
    for name in ("Ignore*", "Exclude", "ignored artefact"):
        cut = segment(slide_file, tmp_path, [feature(SQUARE, "Tissue"), feature([HOLE], name)]).mask
        np.testing.assert_array_equal(cut, with_hole)
    assert whole.sum() - with_hole.sum() == pytest.approx(12.5**2, abs=13)
    for name in ("Region*", "Necrosis*", "Immune cells*"):
        np.testing.assert_array_equal(segment(slide_file, tmp_path, feature(SQUARE, name)).mask, whole)


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        ("{not json", "cannot be used: it is not valid JSON"),
        (
            feature([[[9000, 9000], [9900, 9000], [9900, 9900]]]),
            r"are outside the slide: x from 9,000 to 9,900",
        ),
        (feature([[[-50, 0], [-10, 0], [-10, 90]]]), "are outside the slide: x from -50 to -10"),
        (feature([[[101, 101], [102, 101], [102, 102]]]), r"cover no pixel of 8 µm"),
        ([feature([HOLE]), feature(SQUARE, "Ignore*")], r"of the class Ignore\* cover all others"),
        (feature(SQUARE, "Ignore*"), r"no annotation with an area, but 1 of the class Ignore\*"),
        ({"type": "FeatureCollection", "features": []}, "no annotation with an area, but nothing"),
    ],
)
def test_what_cannot_be_used_is_said(slide_file: Path, tmp_path: Path, drawn: Any, reason: str) -> None:
    with pytest.raises(SlideError, match=rf"a b\.geojson.*{reason}"):
        segment(slide_file, tmp_path, drawn)


def test_what_reaches_beyond_the_slide_or_is_no_area_is_told(slide_file: Path, tmp_path: Path) -> None:
    plain = segment(slide_file, tmp_path, feature(SQUARE))
    assert plain.warnings == ()
    point = {"type": "Point", "coordinates": [5, 5]}
    beside = [feature(SQUARE), {"type": "Feature", "geometry": point, "properties": {}}]
    found = segment(slide_file, tmp_path, beside)
    np.testing.assert_array_equal(found.mask, plain.mask)
    assert found.warnings == ("its GeoJSON: ignored 1 point; only annotations with an area are tissue",)
    far = [[[1100, 700], [1500, 700], [1500, 900], [1100, 900]]]
    beyond = segment(slide_file, tmp_path, [feature(SQUARE), feature(far)])
    (warning,) = beyond.warnings
    assert (
        "1 of 2 annotations extend beyond the slide: x from 100 to 1,500 and y from 100 to 900 px" in warning
    )
    assert "is x from 0 to 1,200 and y from 0 to 800" in warning


def test_filling_by_pieces_gives_the_same(
    slide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = np.random.default_rng(2).uniform(0, 800, (300, 2)).tolist()
    whole = segment(slide_file, tmp_path, feature([points]))
    monkeypatch.setattr("milsurv.slides.geojson.CROSSINGS_AT_ONCE", 97)
    np.testing.assert_array_equal(segment(slide_file, tmp_path, feature([points])).mask, whole.mask)


AT, SIDE, CANVAS = (640, 896), 512, 2048
"""The scanned area of a slide with bounds."""


@pytest.fixture(scope="module")
def with_bounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bounds") / "a b.scn"
    return write_scn(path, stained(SIDE, SIDE), at=AT, slide_px=CANVAS)


def scanned(mask: TissueMask) -> NDArray[np.bool_]:
    """Which pixels of a mask lie in the scanned area."""
    x, y, width, height = (round(place / mask.downsample) for place in (*AT, SIDE, SIDE))
    expected = np.zeros_like(mask.mask)
    expected[y : y + height, x : x + width] = True
    return expected


def test_what_is_drawn_in_qupath_counts_from_the_scanned_areas_corner(
    with_bounds: Path, tmp_path: Path
) -> None:
    square = [[[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE], [0, 0]]]
    found = segment(with_bounds, tmp_path, feature(square))
    np.testing.assert_array_equal(found.mask, scanned(found))
    assert found.warnings == ()
    in_level_0 = feature((np.array(square) + AT).tolist())
    told = {"type": "FeatureCollection", "milsurv": {"origin": [0, 0]}, "features": [in_level_0]}
    np.testing.assert_array_equal(segment(with_bounds, tmp_path, told).mask, found.mask)
    with pytest.raises(SlideError, match=r"are outside the slide: .*set tissue.origin: level0"):
        segment(with_bounds, tmp_path, in_level_0)
    with OpenSlideSlide(with_bounds) as slide:
        by_setting = GeoJsonTissue(GeoJsonConfig(folder=tmp_path, origin="level0")).segment(slide)
    np.testing.assert_array_equal(by_setting.mask, found.mask)


def test_what_is_written_for_qupath_lies_in_what_qupath_shows(with_bounds: Path, tmp_path: Path) -> None:
    path = tmp_path / "a b.geojson"
    with OpenSlideSlide(with_bounds) as slide:
        assert slide.bounds == (*AT, SIDE, SIDE)
        tissue = OtsuTissue(OtsuConfig()).segment(slide)
        write_geojson(tissue, path, slide.qupath_origin)
        written = json.loads(path.read_text())
        corners = np.concatenate([ring for f in written["features"] for ring in f["geometry"]["coordinates"]])
        assert (corners.min(axis=0) == 0).all()
        assert (corners.max(axis=0) == SIDE).all()
        assert written.pop("milsurv") == {"origin": list(AT)}
        for content in (json.dumps(written), path.read_text()):  # as QuPath saves it again, and as it is
            path.write_text(content)
            read = GeoJsonTissue(GeoJsonConfig(folder=tmp_path)).segment(slide)
            np.testing.assert_array_equal(read.mask, tissue.mask)


def test_a_slide_without_a_file(slide_file: Path, tmp_path: Path) -> None:
    tissue = GeoJsonTissue(GeoJsonConfig(folder=tmp_path))
    with OpenSlideSlide(slide_file) as slide, pytest.raises(SlideError, match=r"a b\.geojson cannot be read"):
        tissue.segment(slide)
    with pytest.raises(SlideError, match=r"a b\.geojson cannot be read"):
        tissue.source(slide_file)
