"""Slides made for tests: pictures, and tiled TIFFs of any pyramid that OpenSlide opens.

Tiles are stored without loss by ``write_slide``, so that a picture is its own oracle, and as scanners store them by
``write_jpeg_slide``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

TILE_PX = 256
GLASS = (243, 242, 245)
STAIN = (190, 120, 170)


def glass(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bare glass with a scanner's noise: RGB ``(height, width, 3)``."""
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 1))
    return (np.array(GLASS) + noise).clip(0, 255).astype(np.uint8)


def stained(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Tissue from edge to edge, with detail in every pixel and at every scale."""
    rng = np.random.default_rng(seed)
    picture = np.empty((height, width, 3))
    picture[:] = STAIN
    for scale in (1, 4, 16, 64):
        small = rng.normal(0, 14, (-(-height // scale), -(-width // scale), 3))
        picture += np.kron(small, np.ones((scale, scale, 1)))[:height, :width]
    return picture.clip(0, 255).astype(np.uint8)


def with_tissue(
    width: int, height: int, pieces: Sequence[tuple[int, int, int, int]], seed: int = 0
) -> NDArray[np.uint8]:
    """Glass with rectangles (x, y, width, height) of tissue."""
    picture, tissue = glass(width, height, seed), stained(width, height, seed)
    for x, y, w, h in pieces:
        picture[y : y + h, x : x + w] = tissue[y : y + h, x : x + w]
    return picture


def write_slide(
    path: Path,
    picture: NDArray[np.uint8],
    *,
    mpp: float | None = None,
    power: float | None = None,
    downsamples: Sequence[float] = (1,),
    missing: Sequence[tuple[int, int]] = (),
) -> Path:
    """Write ``picture`` as a TIFF with one level for each of ``downsamples`` (the first is 1).

    It is an Aperio slide when ``mpp`` or ``power`` is given, else a generic tiled TIFF. The tiles of level 0
    with (column, row) in ``missing`` are not stored.
    """
    fields = {"AppMag": power, "MPP": mpp}
    given = [f"{name} = {value:g}" for name, value in fields.items() if value is not None]
    description = "|".join(["Aperio made for tests", *given]) if given else None
    with tifffile.TiffWriter(path) as tiff:
        for downsample in downsamples:
            size = (int(picture.shape[1] / downsample), int(picture.shape[0] / downsample))
            level = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
            tiff.write(
                _tiles(level, missing if downsample == 1 else ()),
                shape=level.shape,
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                compression="zlib",
                photometric="rgb",
                description=description,
                metadata=None,
                subfiletype=0 if downsample == 1 else 1,
            )
    return path


def write_jpeg_slide(
    path: Path,
    picture: NDArray[np.uint8],
    *,
    mpp: float | None = 0.5,
    downsamples: Sequence[float] = (1,),
    tile_px: int = TILE_PX,
    colours: Literal["ycbcr", "rgb"] = "ycbcr",
    adobe: bool = False,
    shared_tables: bool = False,
    jpeg2000: bool = False,
    bigtiff: bool = False,
    missing: Sequence[tuple[int, int]] = (),
) -> Path:
    """Write ``picture`` with JPEG tiles: an Aperio slide when ``mpp`` is given, else a generic tiled TIFF.

    ``colours`` is what the JPEGs hold (4:2:0 for YCbCr), ``adobe`` whether each says so in an Adobe marker;
    without it RGB's components are numbered 0, 1, 2, as some scanners do. With ``shared_tables`` the tiles'
    quantisation and Huffman tables stand in the TIFF.
    """
    description = None if mpp is None else f"Aperio made for tests|MPP = {mpp:g}"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for downsample in downsamples:
            size = (int(picture.shape[1] / downsample), int(picture.shape[0] / downsample))
            level = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
            pixels = _tiles(level, missing if downsample == 1 else (), tile_px)
            encode = _jpeg2000 if jpeg2000 else partial(_jpeg, colours=colours, adobe=adobe)
            stored = [b"" if tile is None else encode(tile) for tile in pixels]
            tables = next(_split_tables(tile)[0] for tile in stored if tile) if shared_tables else None
            if shared_tables:
                stored = [_split_tables(tile)[1] if tile else tile for tile in stored]
            tiff.write(
                iter(stored),
                shape=level.shape,
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                compression=33005 if jpeg2000 else "jpeg",
                photometric="rgb" if colours == "rgb" or jpeg2000 else "ycbcr",
                compressionargs={"outcolorspace": "rgb"} if colours == "rgb" else None,
                jpegtables=tables,
                subsampling=(2, 2) if colours == "ycbcr" and not jpeg2000 else None,
                description=description,
                metadata=None,
                subfiletype=0 if downsample == 1 else 1,
            )
    return path


def write_scn(
    path: Path, picture: NDArray[np.uint8], *, at: tuple[int, int], slide_px: int, mpp: float = 0.5
) -> Path:
    """Write ``picture`` as the scanned area of a Leica SCN, from level-0 pixel ``at`` on of ``slide_px`` squared.

    OpenSlide gives it bounds.
    """
    nm = round(1000 * mpp)
    height, width = picture.shape[:2]
    overview = np.full((TILE_PX, TILE_PX, 3), 243, np.uint8)
    whole = (overview, (slide_px, slide_px), (0, 0), 0.6)
    images = [
        f"""<image name="image_{number}"><creationDate>2020-01-01T00:00:00Z</creationDate>
        <device model="Leica SCN400" version="1"/>
        <pixels sizeX="{pixels.shape[1]}" sizeY="{pixels.shape[0]}">
        <dimension sizeX="{pixels.shape[1]}" sizeY="{pixels.shape[0]}" r="0" ifd="{number}"/></pixels>
        <view sizeX="{size[0] * nm}" sizeY="{size[1] * nm}" offsetX="{place[0] * nm}" offsetY="{place[1] * nm}"/>
        <scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>
        <illuminationSettings><numericalAperture>0.4</numericalAperture>
        <illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""
        for number, (pixels, size, place, objective) in enumerate((whole, (picture, (width, height), at, 20)))
    ]
    side = slide_px * nm
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="made" sizeX="{side}" sizeY="{side}"><barcode/>{"".join(images)}</collection></scn>'
    )
    settings: dict[str, Any] = {"tile": (TILE_PX, TILE_PX), "compression": "jpeg", "photometric": "rgb"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(overview, description=description, metadata=None, **settings)
        tiff.write(picture, metadata=None, **settings)
    return path


def _jpeg2000(tile: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG2000", no_jp2=True, mct=0)
    return stream.getvalue()


def _jpeg(tile: NDArray[np.uint8], colours: str, adobe: bool) -> bytes:
    stream = io.BytesIO()
    if colours == "rgb":
        Image.fromarray(tile).save(stream, "JPEG", quality=85, keep_rgb=True)
        return stream.getvalue() if adobe else _numbered(_without(stream.getvalue(), 0xEE))
    Image.fromarray(tile).save(stream, "JPEG", quality=85, subsampling="4:2:0")
    plain = _without(stream.getvalue(), 0xE0)
    return plain[:2] + ADOBE_YCBCR + plain[2:] if adobe else plain


ADOBE_YCBCR = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"


def _segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """(marker, bytes with it) of a JPEG's headers, and of all from the start of scan on."""
    found, at = [], 2
    while (marker := jpeg[at + 1]) != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append((marker, jpeg[at:end]))
        at = end
    return [*found, (marker, jpeg[at:])]


def _without(jpeg: bytes, unwanted: int) -> bytes:
    return jpeg[:2] + b"".join(part for marker, part in _segments(jpeg) if marker != unwanted)


def _numbered(jpeg: bytes) -> bytes:
    """The components R, G, B of an RGB JPEG as 0, 1, 2."""
    parts = dict(_segments(jpeg))
    frame, scan = bytearray(parts[0xC0]), bytearray(parts[0xDA])
    for number in range(3):
        frame[10 + 3 * number] = number
        scan[5 + 2 * number] = number
    changed = {0xC0: bytes(frame), 0xDA: bytes(scan)}
    return jpeg[:2] + b"".join(changed.get(marker, part) for marker, part in _segments(jpeg))


def _split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """An abbreviated JPEG with the tables alone, and one without them."""
    parts = _segments(jpeg)
    tables = b"".join(part for marker, part in parts if marker in (0xDB, 0xC4))
    rest = b"".join(part for marker, part in parts if marker not in (0xDB, 0xC4))
    return jpeg[:2] + tables + b"\xff\xd9", jpeg[:2] + rest


def _tiles(
    level: NDArray[np.uint8], missing: Sequence[tuple[int, int]], tile_px: int = TILE_PX
) -> Iterator[NDArray[np.uint8] | None]:
    rows, columns = (-(-side // tile_px) for side in level.shape[:2])
    pad = (rows * tile_px - level.shape[0], columns * tile_px - level.shape[1])
    padded = np.pad(level, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    for row in range(rows):
        for column in range(columns):
            y, x = row * tile_px, column * tile_px
            kept = (column, row) not in missing
            yield np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px]) if kept else None


def damage_tile(path: Path, page: int, tile: int) -> None:
    """Overwrite the middle of a stored tile with zeros, as a bad disk would."""
    with tifffile.TiffFile(path) as tiff:
        stored = tiff.pages[page]
        offset, size = stored.dataoffsets[tile], stored.databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))


def cut_off_tile(path: Path, tile: int) -> None:
    """Move a tile of level 0 to the file's end and cut the file within it, as a copy that broke off would be."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        offset, size = page.dataoffsets[tile], page.databytecounts[tile]
        content = path.read_bytes()
        offsets = list(page.dataoffsets)
        offsets[tile] = len(content)
        page.tags["TileOffsets"].overwrite(offsets)
    with path.open("ab") as file:
        file.write(content[offset : offset + size // 2])
