from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest

from milsurv.synthetic.pyramid import write_pyramid


def gradient_picture(width: int, height: int) -> np.ndarray:
    """Smooth colours, so that JPEG and chroma subsampling change little, the same in no two channels."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [40 + 200 * x, 230 - 150 * y, 90 + 120 * x * y]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def test_openslide_reads_levels_resolution_and_colours(tmp_path: Path) -> None:
    picture = gradient_picture(1000, 600)
    path = write_pyramid(picture, tmp_path / "x.svs")
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert float(slide.properties["openslide.mpp-y"]) == 0.5
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.level_dimensions == ((1000, 600), (500, 300), (250, 150))
        assert not slide.associated_images
        for level, size in enumerate(slide.level_dimensions):
            pixels = np.asarray(slide.read_region((0, 0), level, size).convert("RGB")).astype(float)
            expected = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(float)
            assert np.abs(pixels - expected).max() <= 12
            assert np.abs((pixels - expected).mean(axis=(0, 1))).max() < 0.7


def test_description_says_synthetic(tmp_path: Path) -> None:
    path = write_pyramid(gradient_picture(256, 256), tmp_path / "x.svs")
    with openslide.OpenSlide(path) as slide:
        description = slide.properties["tiff.ImageDescription"]
    assert description.startswith("Aperio ")
    assert "synthetic" in description
    assert "milsurv" in description


def test_same_picture_gives_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    picture = gradient_picture(512, 512)
    first = write_pyramid(picture, tmp_path / "a.svs").read_bytes()
    assert write_pyramid(picture, tmp_path / "b.svs").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svs", "b.svs"]


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("milsurv.storage.atomic.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_pyramid(gradient_picture(256, 256), tmp_path / "x.svs")
    assert not list(tmp_path.iterdir())


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="divisible"):
        write_pyramid(gradient_picture(250, 256), tmp_path / "x.svs")
