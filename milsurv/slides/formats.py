"""What a slide file is: the images of a TIFF, whether they are RGB, and why OpenSlide does not open a file."""

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
"""TIFF's numbers of photometric interpretations."""
COLOURS = {3: "palette", 4: "mask", 5: "CMYK", 8: "CIELab", 9: "CIELab", 10: "CIELab"}
"""Names of others."""
ALPHA = ((1,), (2,))
"""TIFF's numbers of the extra samples that are alpha, associated or not."""
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
"""TIFF's numbers -> names of compressions that OpenSlide may not read."""
CONVERT = "convert it, for example with: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90"
MOST_IMAGES = 64
"""Images of a TIFF that are looked at."""
MOST_TILE_PX = 2**26
"""Pixels of a tile: far more than scanners write, and what decodes in a few hundred MB."""
BEGINNINGS = {
    b"\x89PNG": f"it is a PNG picture; {CONVERT}",
    b"\xff\xd8\xff": f"it is a JPEG picture; {CONVERT}",
    b"\x1f\x8b": "it is compressed with gzip; unpack it",
    b"PK\x03\x04": "it is a ZIP archive; unpack it",
    b"Rar!": "it is a RAR archive; unpack it",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it",
    b"%PDF": "it is a PDF document",
    b"\x89HDF": "it is an HDF5 file",
    b"<": "it is a web page or XML, as a failed download leaves it; download the slide again",
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the file itself with git lfs pull",
}
"""What files begin with that are no slides -> what is said of them."""
NO_FORMAT = (
    "in no slide format that OpenSlide reads, or cut off; tiled TIFF, SVS, NDPI, SCN, MRXS, BIF, VMS, CZI and DICOM "
    "slides are read"
)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it prints its doubts about damaged tags
_UNSUPPORTED = re.compile(r"Unsupported TIFF compression: (\d+)")


@dataclass(frozen=True)
class TiffImage:
    """What the tags of one of a TIFF's images say."""

    size: tuple[int, int]
    """Width and height in pixels."""
    samples: int
    bits: int | tuple[int, ...]
    photometric: int
    extra: tuple[int, ...]
    tile: tuple[int, int]
    """Width and height of its tiles; 0 when it is stored in strips."""
    tiles: int
    """Tiles that are stored."""
    reduced: bool
    """True for a smaller version of another image, or a mask of one."""


def require_file(path: Path) -> int:
    """The size in bytes. Raises SlideError for what is no regular file: a pipe would be waited for without end."""
    try:
        found = path.stat()
    except OSError as error:
        raise SlideError(f"does not open: {error.strerror or error} ({error.filename})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise SlideError(f"does not open: it is {kind}, not a file; give the slide's file")
    return found.st_size


def tiff_images(path: Path) -> tuple[TiffImage, ...]:
    """The images of a TIFF in the file's order; none of a file that is no TIFF, or whose tags cannot be read."""
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            return ()
    try:
        with tifffile.TiffFile(path) as tiff:
            return tuple(_image(page) for page in islice(tiff.pages, MOST_IMAGES))
    except (
        Exception
    ):  # the parser may stumble anywhere in a damaged file, of which OpenSlide has its own opinion
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
    """Raise SlideError when a TIFF's largest image is not RGB of 8 bits, with or without alpha, or YCbCr of these."""
    if not images:
        return
    image = _largest(images)
    bits = max(image.bits) if isinstance(image.bits, tuple) else image.bits
    if image.photometric in GREY:
        same = sum(other.size == image.size for other in images)
        planes = f", one of {same} planes" if same > 1 else ""
        raise SlideError(
            f"not RGB: it has a single grey channel{planes}; fluorescence is not supported, and colours that are kept "
            "apart must be joined into one RGB image"
        )
    if bits != 8:
        what = f"{bits} bits per channel"
    elif image.photometric not in (RGB, YCBCR):
        what = f"{COLOURS.get(image.photometric, f'photometric interpretation {image.photometric}')} colours"
    elif image.samples == 3 or (image.samples == 4 and image.extra in ALPHA):
        return
    else:
        what = f"{image.samples} channels"
    raise SlideError(f"not RGB: it has {what}, and slides are read as 8-bit RGB; {CONVERT}")


def require_sound_tiles(images: Sequence[TiffImage]) -> None:
    """Raise SlideError when tiles are too large to decode, or too few: libraries would ask for memory without end."""
    for image in images:
        if not all(image.tile):
            continue
        if image.tile[0] * image.tile[1] > MOST_TILE_PX:
            size = "×".join(map(str, image.tile))
            raise SlideError(f"damaged: its tiles have {size} px by its tags; copy or scan the slide again")
        columns, rows = (-(-side // tile) for side, tile in zip(image.size, image.tile, strict=True))
        if image.tiles < columns * rows:
            raise SlideError(
                f"damaged: by its tags it has {image.size[0]}×{image.size[1]} px, which take {columns * rows:,} tiles, "
                f"and {image.tiles:,} are stored; copy or scan the slide again"
            )


def further_images(images: Sequence[TiffImage], dimensions: tuple[int, int]) -> int:
    """Images of level 0's size besides level 0: other focal planes, scenes or times, which are not read."""
    return max(0, sum(image.size == dimensions and not image.reduced for image in images) - 1)


def why_not_open(path: Path, said: str | None) -> str:
    """Why OpenSlide does not open a file, and what to do; ``said`` is its message, if it recognised a format."""
    with path.open("rb") as file:
        begin = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    for beginning, what in BEGINNINGS.items():
        if begin.startswith(beginning):
            return what
    if match := _UNSUPPORTED.search(said or ""):
        number = int(match[1])
        name = COMPRESSIONS.get(number, "a compression unknown to milsurv")
        return f"its pixels are stored as {name} (TIFF compression {number}), which OpenSlide does not read; {CONVERT}"
    images = tiff_images(path)
    require_rgb(images)
    if images and not all(_largest(images).tile):
        return f"a TIFF stored in strips; slides are read from tiled TIFFs; {CONVERT}"
    return f"{said}; copy or scan the slide again" if said else NO_FORMAT


def _largest(images: Sequence[TiffImage]) -> TiffImage:
    return max(images, key=lambda image: image.size[0] * image.size[1])
