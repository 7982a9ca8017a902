"""Files that are no slides, or slides that cannot be shown as RGB, made by tifffile and Pillow."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from milsurv.errors import SlideError
from milsurv.slides.jpeg_tiles import JpegTilesSlide
from milsurv.slides.reader import slide_identity
from tests.slides.make_slides import stained

PICTURE = stained(300, 300)
GREY = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2GRAY)
HALF = np.repeat(np.array([0, 255], np.uint8), 150)[None, :, None].repeat(300, 0)
COLOURS = np.zeros((3, 256), np.uint16)


def _tiff(path: Path, pixels: NDArray[Any], photometric: str = "rgb", **options: Any) -> None:
    given = {"tile": (128, 128), "compression": "zlib", "metadata": None, **options}
    tifffile.imwrite(
        path, pixels, photometric=photometric, resolution=(20000, 20000), resolutionunit="CENTIMETER", **given
    )


def _planes(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(
            np.moveaxis(PICTURE, 2, 0), photometric="minisblack", tile=(128, 128), metadata={"axes": "CYX"}
        )


def _picture(path: Path, kind: str) -> None:
    Image.fromarray(PICTURE).save(path, kind)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "grey": (lambda p: _tiff(p, GREY, "minisblack"), "not RGB: it has a single grey channel; fluorescence"),
    "white is 0": (lambda p: _tiff(p, GREY, "miniswhite"), "a single grey channel"),
    "grey, 16 bits": (lambda p: _tiff(p, GREY.astype("u2"), "minisblack"), "a single grey channel"),
    "planes of an OME-TIFF": (_planes, "a single grey channel, one of 3 planes"),
    "16 bits": (lambda p: _tiff(p, PICTURE.astype("u2") * 16), "16 bits per channel"),
    "floats": (lambda p: _tiff(p, PICTURE.astype("f4")), "32 bits per channel"),
    "1 bit": (lambda p: _tiff(p, GREY > 128, "minisblack", compression=None), "a single grey channel"),
    "palette": (lambda p: _tiff(p, GREY, "palette", colormap=COLOURS), "palette colours"),
    "CMYK": (lambda p: _tiff(p, np.dstack([PICTURE, GREY]), "separated"), "CMYK colours"),
    "CIELab": (lambda p: _tiff(p, PICTURE, "cielab"), "CIELab colours"),
    "five channels": (
        lambda p: _tiff(p, np.dstack([PICTURE, GREY, GREY]), extrasamples=["unspecified"] * 2),
        "5 channels",
    ),
    "a fourth channel": (
        lambda p: _tiff(p, np.dstack([PICTURE, GREY]), extrasamples=["unspecified"]),
        "4 channels",
    ),
    "strips": (lambda p: _tiff(p, PICTURE, tile=None, rowsperstrip=50), "stored in strips"),
    "WebP": (lambda p: _tiff(p, PICTURE, compression="webp"), r"stored as WebP \(TIFF compression 50001\)"),
    "JPEG 2000": (lambda p: _tiff(p, PICTURE, compression="jpeg2000"), r"stored as JPEG 2000 .*34712.*vips"),
    "LERC": (lambda p: _tiff(p, PICTURE, compression="lerc"), "stored as LERC"),
    "JPEG XL": (lambda p: _tiff(p, PICTURE, compression="jpegxl"), "stored as JPEG XL"),
    "PNG": (lambda p: _picture(p, "PNG"), "a PNG picture"),
    "JPEG": (lambda p: _picture(p, "JPEG"), "a JPEG picture"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"slide")), "compressed with gzip"),
    "HTML or XML": (lambda p: p.write_text("\n <!DOCTYPE html>"), "HTML or XML"),
    "LFS": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
    "a pipe": (os.mkfifo, "a pipe, socket or device"),
    "a folder": (Path.mkdir, "a folder"),
    "a loop": (lambda p: p.symlink_to(p.name), "Too many levels"),
    "nothing": (Path.touch, "0 bytes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_as_rgb_or_is_no_slide_says_what_it_is(kind: str, tmp_path: Path) -> None:
    make, reason = REFUSED[kind]
    path = tmp_path / "slide.tif"
    make(path)
    with pytest.raises(SlideError, match=reason) as raised:
        JpegTilesSlide(path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"TileWidth": 2**30, "TileLength": 2**30}, "its tags declare tiles of 1073741824×1073741824 px"),
        (
            {"ImageWidth": 60_000, "ImageLength": 60_000},
            "60000×60000 px, which need 219,961 tiles, but 9 are stored",
        ),
        ({"ImageWidth": 2**31 - 1, "ImageLength": 2**31 - 1}, "but 9 are stored"),
    ],
)
def test_tags_that_ask_for_more_than_the_file_holds_are_refused(
    tags: dict[str, int], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "slide.tif"
    _tiff(path, PICTURE)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in tags.items():
            tiff.pages.first.tags[name].overwrite(value)
    with pytest.raises(SlideError, match=reason):
        JpegTilesSlide(path)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_what_is_no_file_has_no_identity(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "slide.tif")
    with pytest.raises(SlideError, match="cannot be opened"):
        slide_identity(tmp_path / "slide.tif")


SHOWN: dict[str, Callable[[Path], object]] = {
    "tiles of 16 px": lambda p: _tiff(p, PICTURE, tile=(16, 16)),
    "BigTIFF": lambda p: _tiff(p, PICTURE, bigtiff=True),
    "separate planes of one image": lambda p: _tiff(p, np.moveaxis(PICTURE, 2, 0), planarconfig="separate"),
    "LZW": lambda p: _tiff(p, PICTURE, compression="lzw"),
    "opaque": lambda p: _tiff(p, np.dstack([PICTURE, np.full_like(GREY, 255)]), extrasamples=["unassalpha"]),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_rgb_is_shown_however_it_is_stored(kind: str, tmp_path: Path) -> None:
    SHOWN[kind](tmp_path / "slide.tif")
    with JpegTilesSlide(tmp_path / "slide.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 300, 300, (300, 300)), PICTURE)
        assert slide.warnings == ()


@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
def test_what_is_transparent_is_background(alpha: str, tmp_path: Path) -> None:
    visible = PICTURE * (HALF > 0) if alpha == "assocalpha" else PICTURE
    _tiff(tmp_path / "slide.tif", np.dstack([visible, HALF]), extrasamples=[alpha])
    with JpegTilesSlide(tmp_path / "slide.tif") as slide:
        read = slide.read(0, 0, 300, 300, (300, 300))
    assert np.array_equal(read, np.where(HALF > 0, PICTURE, 255))


def test_further_focal_planes_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "slide.tif") as tiff:
        for _ in range(3):
            tiff.write(
                PICTURE,
                photometric="rgb",
                tile=(128, 128),
                compression="zlib",
                resolution=(20000, 20000),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    with JpegTilesSlide(tmp_path / "slide.tif") as slide:
        assert "3 images of this size" in slide.warnings[0]
