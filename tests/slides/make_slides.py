"""Slides made for tests: pictures, and tiled TIFFs of any pyramid that OpenSlide opens.

Tiles are stored without loss, so that a picture is its own oracle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

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


def _tiles(
    level: NDArray[np.uint8], missing: Sequence[tuple[int, int]]
) -> Iterator[NDArray[np.uint8] | None]:
    rows, columns = (-(-side // TILE_PX) for side in level.shape[:2])
    pad = (rows * TILE_PX - level.shape[0], columns * TILE_PX - level.shape[1])
    padded = np.pad(level, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    for row in range(rows):
        for column in range(columns):
            y, x = row * TILE_PX, column * TILE_PX
            kept = (column, row) not in missing
            yield np.ascontiguousarray(padded[y : y + TILE_PX, x : x + TILE_PX]) if kept else None


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
