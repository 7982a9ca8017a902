"""Formats of slide files: the images of a TIFF, whether they are RGB, and why OpenSlide cannot open a file."""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tifffile

from milsurv.errors import SlideError

GREY, RGB, YCBCR = (0, 1), 2, 6
"""TIFF codes of photometric interpretations."""
COLOURS = {3: "palette", 4: "mask", 5: "CMYK", 8: "CIELab", 9: "CIELab", 10: "CIELab"}
ALPHA = ((1,), (2,))
"""TIFF codes of extra samples that are alpha, associated or not."""
COMPRESSIONS = {
    2: "CCITT",
    6: "old-style JPEG",
    33003: "Aperio's JPEG 2000",
    33004: "JPEG 2000",
    33005: "Aperio's JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG DNG",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    22610: "JPEG XR",
    50000: "Zstandard",
    34926: "Zstandard",
    34927: "WebP",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""TIFF codes -> names of compressions that OpenSlide may not support."""
CONVERT = "convert it, for example with: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90"
MAX_IMAGES = 64
"""Images of a TIFF that are examined."""
MAX_TILE_PX = 2**26
"""Pixels of a tile: far more than scanners write, and a few hundred MB when decoded."""
OTHER_FORMATS = {
    b"\x89PNG": f"it is a PNG picture; {CONVERT}",
    b"\xff\xd8\xff": f"it is a JPEG picture; {CONVERT}",
    b"\x1f\x8b": "it is compressed with gzip; unpack it",
    b"PK\x03\x04": "it is a ZIP archive; unpack it",
    b"Rar!": "it is a RAR archive; unpack it",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it",
    b"%PDF": "it is a PDF document",
    b"\x89HDF": "it is an HDF5 file",
    b"<": "it is HTML or XML, perhaps from a failed download; download the slide again",
    b"version https://git-lfs": "it is a Git LFS pointer; fetch the file itself with git lfs pull",
}
"""First bytes of files that are not slides -> what they are."""
NO_FORMAT = (
    "not in a slide format that OpenSlide supports, or incomplete; supported are tiled TIFF, SVS, NDPI, SCN, MRXS, "
    "BIF, VMS, CZI and DICOM"
)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it warns about damaged tags
_UNSUPPORTED = re.compile(r"Unsupported TIFF compression: (\d+)")


@dataclass(frozen=True)
class TiffImage:
    """Tags of an image of a TIFF."""

    size: tuple[int, int]
    """Width and height in pixels."""
    samples: int
    bits: int | tuple[int, ...]
    photometric: int
    extra: tuple[int, ...]
    tile: tuple[int, int]
    """Width and height of its tiles; 0 if it is stored in strips."""
    tiles: int
    """Number of stored tiles."""
    reduced: bool
    """Whether it is a smaller version or a mask of another image."""


def require_file(path: Path) -> int:
    """The size in bytes. Raises SlideError for anything but a regular file: reading a pipe would block forever."""
    try:
        found = path.stat()
    except OSError as error:
        raise SlideError(f"cannot be opened: {error.strerror or error} ({error.filename})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise SlideError(f"cannot be opened: it is {kind}, not a file; use the slide's file")
    return found.st_size


def tiff_images(path: Path) -> tuple[TiffImage, ...]:
    """The images of a TIFF in the order of the file; none if it is not a TIFF or its tags cannot be read."""
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            return ()
    try:
        with tifffile.TiffFile(path) as tiff:
            return tuple(_image(page) for page in islice(tiff.pages, MAX_IMAGES))
    except Exception:  # the parser may fail anywhere in a damaged file, which OpenSlide then reports
        return ()


def _image(page: tifffile.TiffPage | tifffile.TiffFrame) -> TiffImage:
    whole = page.aspage()
    return TiffImage(
        (whole.imagewidth, whole.imagelength),
        whole.samplesperpixel,
        whole.bitspersample,
        int(whole.photometric),
        tuple(map(int, whole.extrasamples)),
        (whole.tilewidth, whole.tilelength),
        len(whole.dataoffsets),
        bool(whole.subfiletype),
    )


def require_rgb(images: Sequence[TiffImage]) -> None:
    """Raise SlideError if a TIFF's largest image is not 8-bit RGB, with or without alpha, or YCbCr."""
    if not images:
        return
    image = _largest(images)
    bits = max(image.bits) if isinstance(image.bits, tuple) else image.bits
    if image.photometric in GREY:
        same = sum(other.size == image.size for other in images)
        planes = f", one of {same} planes" if same > 1 else ""
        raise SlideError(
            f"not RGB: it has a single grey channel{planes}; fluorescence is not supported, and separate colour "
            "channels must be merged into one RGB image"
        )
    if bits != 8:
        what = f"{bits} bits per channel"
    elif image.photometric not in (RGB, YCBCR):
        what = f"{COLOURS.get(image.photometric, f'photometric interpretation {image.photometric}')} colours"
    elif image.samples == 3 or (image.samples == 4 and image.extra in ALPHA):
        return
    else:
        what = f"{image.samples} channels"
    raise SlideError(f"not RGB: it has {what}, but slides must be 8-bit RGB; {CONVERT}")


def require_sound_tiles(images: Sequence[TiffImage]) -> None:
    """Raise SlideError if tiles are too large to decode, or too few: libraries would allocate unlimited memory."""
    for image in images:
        if not all(image.tile):
            continue
        if image.tile[0] * image.tile[1] > MAX_TILE_PX:
            size = "×".join(map(str, image.tile))
            raise SlideError(f"damaged: its tags declare tiles of {size} px; copy or scan the slide again")
        columns, rows = (-(-side // tile) for side, tile in zip(image.size, image.tile, strict=True))
        if image.tiles < columns * rows:
            raise SlideError(
                f"damaged: its tags declare {image.size[0]}×{image.size[1]} px, which need {columns * rows:,} tiles, "
                f"but {image.tiles:,} are stored; copy or scan the slide again"
            )


def further_images(images: Sequence[TiffImage], dimensions: tuple[int, int]) -> int:
    """Number of other images of level 0's size: focal planes, scenes or times, which are not read."""
    return max(0, sum(image.size == dimensions and not image.reduced for image in images) - 1)


def why_not_open(path: Path, message: str | None) -> str:
    """Why OpenSlide cannot open a file, and what to do; ``message`` is its error, if it recognised the format."""
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    for magic, problem in OTHER_FORMATS.items():
        if head.startswith(magic):
            return problem
    if match := _UNSUPPORTED.search(message or ""):
        number = int(match[1])
        name = COMPRESSIONS.get(number, "an unknown format")
        return (
            f"it is stored as {name} (TIFF compression {number}), which OpenSlide does not support; {CONVERT}"
        )
    images = tiff_images(path)
    require_rgb(images)
    if images and not all(_largest(images).tile):
        return f"it is a TIFF stored in strips, but slides must be tiled; {CONVERT}"
    return f"{message}; copy or scan the slide again" if message else NO_FORMAT


def _largest(images: Sequence[TiffImage]) -> TiffImage:
    return max(images, key=lambda image: image.size[0] * image.size[1])
