"""Write one picture as a pyramidal, JPEG-tiled TIFF that OpenSlide reads with µm/px and objective power.

The container is written here, because common TIFF writers need an extra codec package to store tiles that OpenCV has
already encoded. A file has one image directory per level: baseline TIFF 6.0, little-endian.
"""

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from milsurv.storage.atomic import atomic_path

TILE_PX = 256
JPEG_QUALITY = 85
LEVEL_FACTORS = (1, 2, 4)
MPP = 0.5
OBJECTIVE_POWER = 20

_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
_STRUCT_CODES = {_SHORT: "H", _LONG: "I", _RATIONAL: "II"}

Tag = tuple[int, int, int, bytes]
"""Tag number, TIFF type, count of values, values as little-endian bytes."""


def write_pyramid(picture: NDArray[np.uint8], path: Path) -> Path:
    """Write `picture` ((height, width, 3) uint8 RGB at 0.5 µm/px) to `path` and return `path`.

    Levels have 1, 1/2 and 1/4 of the side length in pixels, by area averaging. The file is written atomically. Equal
    pictures give equal bytes.
    """
    height, width = picture.shape[:2]
    if picture.dtype != np.uint8 or height % LEVEL_FACTORS[-1] or width % LEVEL_FACTORS[-1]:
        raise ValueError(f"expected uint8 with sides divisible by {LEVEL_FACTORS[-1]}, got {picture.shape}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(_tiff_bytes(picture))
    return path


def _tiff_bytes(picture: NDArray[np.uint8]) -> bytes:
    content = bytearray(b"II*\0" + bytes(4))
    link = 4  # position of the offset of the next directory
    for factor in LEVEL_FACTORS:
        level = _shrink(picture, factor)
        offsets: list[int] = []
        sizes: list[int] = []
        for tile in _jpeg_tiles(level):
            offsets.append(len(content))
            sizes.append(len(tile))
            content += tile
            content += bytes(len(content) % 2)
        link = _append_directory(content, link, _level_tags(level, picture, factor, offsets, sizes))
    return bytes(content)


def _shrink(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return picture
    size = (picture.shape[1] // factor, picture.shape[0] // factor)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _jpeg_tiles(level: NDArray[np.uint8]) -> list[bytes]:
    """JPEG files of the tiles, row by row; beyond the border, the picture's last row or column is repeated."""
    height, width = level.shape[:2]
    bgr = cv2.cvtColor(level, cv2.COLOR_RGB2BGR)
    bgr = cv2.copyMakeBorder(bgr, 0, -height % TILE_PX, 0, -width % TILE_PX, cv2.BORDER_REPLICATE)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    tiles = []
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            done, encoded = cv2.imencode(".jpg", bgr[top : top + TILE_PX, left : left + TILE_PX], options)
            if not done:
                raise RuntimeError(f"OpenCV could not encode the tile at ({left}, {top})")
            tiles.append(encoded.tobytes())
    return tiles


def _level_tags(
    level: NDArray[np.uint8], picture: NDArray[np.uint8], factor: int, offsets: list[int], sizes: list[int]
) -> list[Tag]:
    pixels_per_cm = round(1e4 / (MPP * factor))
    description = _description(level, picture).encode("ascii") + b"\0"
    return [
        _tag(254, _LONG, 0 if factor == 1 else 1),  # NewSubfileType: 1 = reduced resolution
        _tag(256, _LONG, level.shape[1]),  # ImageWidth
        _tag(257, _LONG, level.shape[0]),  # ImageLength
        _tag(258, _SHORT, 8, 8, 8),  # BitsPerSample
        _tag(259, _SHORT, 7),  # Compression: JPEG
        _tag(262, _SHORT, 6),  # PhotometricInterpretation: YCbCr
        (270, _ASCII, len(description), description),  # ImageDescription
        _tag(277, _SHORT, 3),  # SamplesPerPixel
        _tag(282, _RATIONAL, pixels_per_cm, 1),  # XResolution
        _tag(283, _RATIONAL, pixels_per_cm, 1),  # YResolution
        _tag(284, _SHORT, 1),  # PlanarConfiguration: interleaved
        _tag(296, _SHORT, 3),  # ResolutionUnit: cm
        _tag(322, _SHORT, TILE_PX),  # TileWidth
        _tag(323, _SHORT, TILE_PX),  # TileLength
        _tag(324, _LONG, *offsets),  # TileOffsets
        _tag(325, _LONG, *sizes),  # TileByteCounts
        _tag(530, _SHORT, 2, 2),  # YCbCrSubSampling: 4:2:0
    ]


def _tag(number: int, kind: int, *values: int) -> Tag:
    code = _STRUCT_CODES[kind]
    count = len(values) // len(code)
    return number, kind, count, struct.pack(f"<{code * count}", *values)


def _append_directory(content: bytearray, link: int, tags: list[Tag]) -> int:
    """Append an image directory, point `link` to it, and return the position of the link to the next one."""
    struct.pack_into("<I", content, link, len(content))
    values_at = len(content) + 2 + 12 * len(tags) + 4
    entries, values = bytearray(), bytearray()
    for number, kind, count, data in tags:
        entries += struct.pack("<HHI", number, kind, count)
        if len(data) <= 4:
            entries += data.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", values_at + len(values))
            values += data + bytes(len(data) % 2)
    content += struct.pack("<H", len(tags)) + entries
    next_link = len(content)
    content += bytes(4) + values
    return next_link


def _description(level: NDArray[np.uint8], picture: NDArray[np.uint8]) -> str:
    """ImageDescription in the form by which OpenSlide recognises an Aperio slide."""
    return (
        "Aperio layout, synthetic slide made by milsurv from no patient\r\n"
        f"{picture.shape[1]}x{picture.shape[0]} -> {level.shape[1]}x{level.shape[0]} "
        f"({TILE_PX}x{TILE_PX}) JPEG Q={JPEG_QUALITY}"
        f"|AppMag = {OBJECTIVE_POWER}|MPP = {MPP}|Synthetic = milsurv"
    )
