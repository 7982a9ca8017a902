import hashlib
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from milsurv.errors import SlideError
from milsurv.plugin.base import PluginConfig
from milsurv.slides import reader
from milsurv.slides.reader import OpenSlideReader, OpenSlideSlide, slide_identity
from tests.slides.make_slides import damage_tile, glass, stained, with_tissue, write_slide

REAL_SLIDE = Path(__file__).parents[1] / "data" / "slides" / "CMU-1-Small-Region.svs"


def test_resolution_of_a_real_slide() -> None:
    with OpenSlideReader(PluginConfig()).open(REAL_SLIDE) as slide:
        assert slide.dimensions == (2220, 2967)
        assert (slide.mpp, slide.mpp_source) == (0.499, "properties")


@pytest.mark.parametrize(
    ("stored", "table", "expected"),
    [
        ({"mpp": 0.25, "power": 20}, None, (0.25, "properties")),
        ({"mpp": 0.25, "power": 20}, 0.46, (0.46, "table")),
        ({"power": 40}, None, (0.25, "objective power")),
        ({"mpp": 0.0, "power": 40}, None, (0.25, "objective power")),
        ({}, 0.3, (0.3, "table")),
    ],
)
def test_where_the_resolution_comes_from(
    tmp_path: Path, stored: dict[str, float], table: float | None, expected: tuple[float, str]
) -> None:
    path = write_slide(tmp_path / "a.svs", glass(300, 300), **stored)  # type: ignore[arg-type]
    with OpenSlideReader(PluginConfig()).open(path, table) as slide:
        assert (slide.mpp, slide.mpp_source) == expected


def test_no_resolution_names_the_column_that_mends_it(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tiff", glass(300, 300))
    with pytest.raises(SlideError, match=r"neither µm/px nor objective power.*cohort\.columns\.mpp"):
        OpenSlideSlide(path)


@pytest.mark.parametrize("mpp", [0.0, -0.25, 0.025, 25.0, float("nan"), float("inf")])
def test_a_table_resolution_that_is_none_is_refused(tmp_path: Path, mpp: float) -> None:
    path = write_slide(tmp_path / "a.svs", glass(300, 300), mpp=0.25)
    with pytest.raises(SlideError, match=r"allowed: 0\.05 to 20"):
        OpenSlideSlide(path, mpp)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "empty"), (b"a letter, not a slide\n" * 99, "not in a slide format")],
)
def test_what_is_no_slide_says_why(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.svs"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SlideError, match=reason):
        OpenSlideSlide(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_slide_is_a_slide_error(tmp_path: Path, kept: float) -> None:
    content = REAL_SLIDE.read_bytes()
    path = tmp_path / "half copied.svs"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SlideError, match="cannot be opened"):
        OpenSlideSlide(path)


def test_read_is_level_0_averaged(tmp_path: Path) -> None:
    picture = stained(900, 700)
    path = write_slide(tmp_path / "a.svs", picture, mpp=0.25, downsamples=(1, 2))
    with OpenSlideSlide(path) as slide:
        assert np.array_equal(slide.read(100, 50, 300, 200, (300, 200)), picture[50:250, 100:400])
        means = picture[50:250, 100:400].reshape(100, 2, 150, 2, 3).mean(axis=(1, 3))
        half = slide.read(100, 50, 300, 200, (150, 100))
    assert np.abs(half - means).max() <= 0.5


def test_what_was_not_scanned_and_what_lies_outside_is_background(tmp_path: Path) -> None:
    picture = stained(600, 600)
    path = write_slide(tmp_path / "a.svs", picture, mpp=0.5, missing=[(1, 0)])
    with OpenSlideSlide(path) as slide:
        area = slide.read(200, -50, 500, 150, (500, 150))
        assert (area[:50] == 255).all()
        assert np.array_equal(area[50:, :56], picture[:100, 200:256])
        assert (area[50:, 56:312] == 255).all()
        assert np.array_equal(area[50:, 312:400], picture[:100, 512:])
        assert (area[:, 400:] == 255).all()
        slide._background = np.array([10, 20, 30], np.uint8)
        assert (slide.read(300, 20, 50, 50, (50, 50)) == [10, 20, 30]).all()


def test_a_damaged_tile_is_named_by_its_place(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.svs", stained(600, 600), mpp=0.5)
    damage_tile(path, page=0, tile=4)
    with OpenSlideSlide(path) as slide:
        slide.read(0, 0, 200, 200, (200, 200))
        with pytest.raises(SlideError, match=r"cannot read 64×64 px at level-0 pixel \(300, 310\)"):
            slide.read(300, 310, 64, 64, (64, 64))


@pytest.mark.parametrize("downsamples", [(1,), (1, 4), (1, 2.7, 4.03)])
@pytest.mark.parametrize("block_px", [100, 2048])
def test_thumbnail_is_the_whole_slide_averaged(
    tmp_path: Path, downsamples: tuple[float, ...], block_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "THUMBNAIL_BLOCK_PX", block_px)
    picture = cv2.GaussianBlur(with_tissue(1210, 803, [(300, 100, 500, 600)]), (0, 0), 40)
    path = write_slide(tmp_path / "a.svs", np.asarray(picture, np.uint8), mpp=0.25, downsamples=downsamples)
    with OpenSlideSlide(path) as slide:
        thumbnail, downsample = slide.thumbnail(242)
    assert downsample == 5
    assert thumbnail.shape == (161, 242, 3)
    expected = cv2.resize(picture, (242, 161), interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail.astype(int) - expected).max() <= 3


def test_thumbnail_reads_the_coarsest_level_that_serves_and_never_enlarges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_slide(tmp_path / "a.svs", glass(1200, 800), mpp=0.25, downsamples=(1, 4))
    levels = []
    region = OpenSlideSlide._region

    def recorded(
        self: OpenSlideSlide, x: int, y: int, level: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        levels.append(level)
        return region(self, x, y, level, width, height)

    monkeypatch.setattr(OpenSlideSlide, "_region", recorded)
    with OpenSlideSlide(path) as slide:
        slide.thumbnail(240)
        assert set(levels) == {1}
        thumbnail, downsample = slide.thumbnail(5000)
    assert (thumbnail.shape, downsample) == ((800, 1200, 3), 1)


def test_thumbnail_of_a_real_slide_is_its_scan_not_its_label() -> None:
    with openslide.OpenSlide(REAL_SLIDE) as raw:
        scan = np.asarray(raw.read_region((0, 0), 0, raw.dimensions))[..., :3]
    with OpenSlideSlide(REAL_SLIDE) as slide:
        thumbnail, _ = slide.thumbnail(300)
    expected = cv2.resize(scan, thumbnail.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail.astype(int) - expected).mean() < 2


def test_identity_is_size_and_hash_of_both_ends(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(600_000)
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    ends = content[: 256 * 1024] + content[-256 * 1024 :]
    expected = hashlib.sha256(b"600000:" + ends).hexdigest()
    assert slide_identity(path) == {"size": 600_000, "quick_hash": f"sha256:{expected}"}
    path.write_bytes(content[:-1] + b"?")
    assert slide_identity(path)["quick_hash"] != f"sha256:{expected}"


def test_identity_of_a_mirax_slide_is_that_of_its_folder(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.mrxs", tmp_path / "a"
    folder.mkdir()
    path.write_bytes(b"cover")
    (folder / "Slidedat.ini").write_bytes(b"SLIDE_ID = 1")
    (folder / "Data0000.dat").write_bytes(bytes(1000))
    first = slide_identity(path)
    assert first["size"] == 1012
    (folder / "Slidedat.ini").write_bytes(b"SLIDE_ID = 2")
    assert slide_identity(path)["quick_hash"] != first["quick_hash"]


def test_identity_of_a_missing_file_is_a_slide_error(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="No such file"):
        slide_identity(tmp_path / "a.svs")
