"""Reading slides whose level 0 is stored as JPEG tiles: each tile is decoded once, without OpenSlide's canvas."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Literal

import cv2
import numpy as np
import openslide
import simplejpeg
import tifffile
from numpy.typing import NDArray

from milsurv.errors import SlideError
from milsurv.plugin.base import PluginConfig
from milsurv.slides.reader import OpenSlideSlide, Reader, Slide

JPEG = 7
"""TIFF's number of the compression."""
ADOBE_TRANSFORM = {2: 0, 6: 1}
"""TIFF's photometric interpretation (RGB, YCbCr) -> the colour transform in an Adobe marker."""
VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's formats whose level 0 is one image of a TIFF, neither moved nor overlapped."""
KEPT_BYTES = 64 * 2**20
"""Most memory for decoded tiles that reach beyond the area that asked for them."""


LARGEST_TILE = 8192
"""Pixels of a tile's side that are decoded here."""


class JpegTilesConfig(PluginConfig):
    """Settings of the reader of JPEG tiles."""

    decode: Literal["full", "half"] = "full"
    """``half``: let the JPEG decoder halve the resolution (scaled inverse DCT) for patches of at most half of level 0's
    resolution. Faster; pixels differ from the average of level 0 by 0.1 to 0.6 grey levels on average."""


class JpegTilesReader(Reader):
    """Reads JPEG tiles itself where their pixels equal OpenSlide's, and leaves all else to OpenSlide."""

    Config = JpegTilesConfig

    def __init__(self, config: JpegTilesConfig):
        self.config = config

    def open(self, path: Path, mpp: float | None = None) -> Slide:
        return JpegTilesSlide(path, mpp, self.config.decode)


class JpegTilesError(Exception):
    """Why a file's level 0 cannot be read as JPEG tiles."""


class JpegTiles:
    """The JPEG tiles of a TIFF's first image. Raises JpegTilesError when it has none."""

    def __init__(self, path: Path):
        try:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                compression, photometric = int(page.compression), int(page.photometric)
                tables = page.jpegtables or b"\xff\xd8\xff\xd9"
                self.dimensions = (int(page.imagewidth), int(page.imagelength))
                self.tile_px = (int(page.tilewidth), int(page.tilelength))
                self._offsets, self._sizes = page.dataoffsets, page.databytecounts
                layers = (page.is_tiled, page.samplesperpixel, page.bitspersample, page.planarconfig)
        except Exception as error:  # the parser may stumble anywhere in a damaged file
            raise JpegTilesError(f"tifffile cannot read it ({error})") from None
        if layers != (True, 3, 8, 1):
            raise JpegTilesError("level 0 is not stored as tiles of three interleaved 8-bit channels")
        if compression != JPEG:
            raise JpegTilesError(f"level 0 is stored as {_name_of_compression(compression)}, not as JPEG")
        if photometric not in ADOBE_TRANSFORM:
            raise JpegTilesError(f"photometric interpretation {photometric} is neither RGB nor YCbCr")
        if min(*self.dimensions, *self.tile_px) < 1 or max(self.tile_px) > LARGEST_TILE:
            raise JpegTilesError(f"level 0 says that it is {self.dimensions} px, in tiles of {self.tile_px}")
        self.columns, self.rows = (
            -(-side // tile) for side, tile in zip(self.dimensions, self.tile_px, strict=True)
        )
        if len(self._offsets) != self.columns * self.rows:
            raise JpegTilesError(f"{len(self._offsets)} tiles do not make {self.columns} × {self.rows}")
        self._tables = tables[2:-2]
        self._adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([ADOBE_TRANSFORM[photometric]])
        self._file = path.open("rb", buffering=0)
        self._file_lock = Lock()

    def close(self) -> None:
        self._file.close()

    def missing(self, column: int, row: int) -> bool:
        """Whether nothing was scanned there."""
        return self._sizes[row * self.columns + column] == 0

    def probes(self) -> list[tuple[int, int]]:
        """(column, row) of tiles in all parts of the slide, of the one with most detail, and of a missing one."""
        columns, rows = ((0, count // 2, count - 1) for count in (self.columns, self.rows))
        sizes = np.array(self._sizes)
        special = [int(sizes.argmax()), int(sizes.argmin())]
        places = [(column, row) for row in rows for column in columns]
        return list(dict.fromkeys([*places, *((i % self.columns, i // self.columns) for i in special)]))

    def decode(self, column: int, row: int, scale: Literal[1, 2]) -> NDArray[np.uint8]:
        """RGB ``(height / scale, width / scale, 3)`` of a tile. Raises ValueError when it does not decode."""
        index = row * self.columns + column
        with self._file_lock:
            self._file.seek(self._offsets[index])
            stored = self._file.read(self._sizes[index])
        width, height = (side // scale for side in self.tile_px)
        # RGB without an Adobe marker is taken for YCbCr by some component numbers: say which it is.
        marker = b"" if b"Adobe" in stored[:512] or b"Adobe" in self._tables else self._adobe
        whole = b"\xff\xd8" + marker + self._tables + stored[2:]
        pixels = simplejpeg.decode_jpeg(whole, "RGB", min_width=width, min_height=height, min_factor=scale)
        if pixels.shape != (height, width, 3):
            raise ValueError(f"a tile of {pixels.shape}, not {(height, width, 3)}")
        return np.asarray(pixels, np.uint8)


def _name_of_compression(number: int) -> str:
    try:
        return tifffile.COMPRESSION(number).name
    except ValueError:
        return f"compression {number}"


class JpegTilesSlide(OpenSlideSlide):
    """A slide opened by OpenSlide whose level 0 is read from its JPEG tiles, if probes have OpenSlide's pixels."""

    def __init__(self, path: Path, mpp: float | None = None, decode: Literal["full", "half"] = "full"):
        super().__init__(path, mpp)
        self._half = decode == "half"
        self._kept: OrderedDict[tuple[int, int, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_lock = Lock()
        self._tiles: JpegTiles | None = None
        try:
            self._tiles = self._probed_tiles()
            self.read_by, self.read_by_reason = (
                f"JPEG tiles at {decode} scale",
                "probed tiles equal OpenSlide's",
            )
        except JpegTilesError as reason:
            self.read_by_reason = str(reason)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._tiles is not None:
            self._tiles.close()
        super().close()

    def read(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        shrink = width // size[0]
        whole = (width, height) == (size[0] * shrink, size[1] * shrink)
        if self._tiles is None or not whole or any(side % shrink for side in (x, y, *self._tiles.tile_px)):
            return super().read(x, y, width, height, size)
        return self._assemble(self._tiles, x // shrink, y // shrink, size, shrink)

    def _region(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        if level != 0 or self._tiles is None:
            return super()._region(x, y, level, width, height)
        return self._assemble(self._tiles, x, y, (width, height), 1)

    def _assemble(
        self, tiles: JpegTiles, x: int, y: int, size: tuple[int, int], shrink: int
    ) -> NDArray[np.uint8]:
        """``size`` (width, height) pixels from ``(x, y)`` on; each is the average of ``shrink``² of level 0."""
        picture = np.empty((size[1], size[0], 3), np.uint8)
        width, height = (side // shrink for side in tiles.tile_px)
        right_end, bottom_end = tiles.columns * width, tiles.rows * height
        if x < 0 or y < 0 or x + size[0] > right_end or y + size[1] > bottom_end:
            picture[:] = self._background
        for row in range(max(0, y // height), min(tiles.rows, -(-(y + size[1]) // height))):
            top, bottom = max(y, row * height), min(y + size[1], (row + 1) * height)
            for column in range(max(0, x // width), min(tiles.columns, -(-(x + size[0]) // width))):
                left, right = max(x, column * width), min(x + size[0], (column + 1) * width)
                cut = (bottom - top, right - left) != (height, width)
                tile = self._tile(tiles, column, row, shrink, keep=cut)
                rows = slice(top - row * height, bottom - row * height)
                columns = slice(left - column * width, right - column * width)
                picture[top - y : bottom - y, left - x : right - x] = tile[rows, columns]
        return picture

    def _tile(self, tiles: JpegTiles, column: int, row: int, shrink: int, keep: bool) -> NDArray[np.uint8]:
        """A tile averaged over ``shrink``² pixels; ``keep`` it for the area beside, which needs its other part."""
        if not keep:
            return self._make_tile(tiles, column, row, shrink)
        key = (column, row, shrink)
        with self._kept_lock:
            kept = self._kept.pop(key, None)
        tile = self._make_tile(tiles, column, row, shrink) if kept is None else kept
        with self._kept_lock:
            self._kept[key] = tile
            while len(self._kept) * tile.nbytes > KEPT_BYTES:
                self._kept.popitem(last=False)
        return tile

    def _make_tile(self, tiles: JpegTiles, column: int, row: int, shrink: int) -> NDArray[np.uint8]:
        scale: Literal[1, 2] = 2 if self._half and shrink % 2 == 0 else 1
        try:
            pixels = self._decode(tiles, column, row, scale)
        except ValueError:  # OpenSlide forgives some damage, and says where it does not
            scale = 1
            x, y = column * tiles.tile_px[0], row * tiles.tile_px[1]
            pixels = super()._region(x, y, 0, *tiles.tile_px)
        if shrink == scale:
            return pixels
        size = (tiles.tile_px[0] // shrink, tiles.tile_px[1] // shrink)
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _decode(self, tiles: JpegTiles, column: int, row: int, scale: Literal[1, 2]) -> NDArray[np.uint8]:
        """A tile at 1/scale, with the background where nothing was scanned and beyond the slide's edge."""
        width, height = (side // scale for side in tiles.tile_px)
        if tiles.missing(column, row):
            pixels = np.empty((height, width, 3), np.uint8)
            pixels[:] = self._background
            return pixels
        pixels = tiles.decode(column, row, scale)
        if column == tiles.columns - 1:
            pixels[:, -(-self.dimensions[0] // scale) - column * width :] = self._background
        if row == tiles.rows - 1:
            pixels[-(-self.dimensions[1] // scale) - row * height :] = self._background
        return pixels

    def _probed_tiles(self) -> JpegTiles:
        """The file's tiles. Raises JpegTilesError when they are not what OpenSlide shows."""
        vendor = self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR)
        if vendor not in VENDORS:
            raise JpegTilesError(
                f"tiles are read of {' and '.join(VENDORS)} slides alone, this one is {vendor}"
            )
        tiles = JpegTiles(self.path)
        try:
            if tiles.dimensions != self.dimensions:
                raise JpegTilesError(f"its first image has {tiles.dimensions} px, level 0 {self.dimensions}")
            for column, row in tiles.probes():
                self._probe(tiles, column, row)
        except BaseException:
            tiles.close()
            raise
        return tiles

    def _probe(self, tiles: JpegTiles, column: int, row: int) -> None:
        where = f"the tile in column {column}, row {row}"
        (width, height) = tiles.tile_px
        try:
            theirs = super()._region(column * width, row * height, 0, width, height)
            ours = self._decode(tiles, column, row, 1)
        except (SlideError, ValueError) as error:
            self._reopen()  # OpenSlide reads nothing more after an error
            raise JpegTilesError(f"{where} is damaged ({error})") from None
        if not np.array_equal(ours, theirs):
            raise JpegTilesError(f"{where} decodes to other pixels")
