"""Fast reading of slides whose level 0 is stored as JPEG tiles: each tile is decoded once, without OpenSlide."""

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
"""TIFF code of the compression."""
ADOBE_TRANSFORM = {2: 0, 6: 1}
"""TIFF's photometric interpretation (RGB, YCbCr) -> the colour transform in an Adobe marker."""
VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's vendors whose level 0 is one image of a TIFF, without offsets or overlap."""
CACHE_BYTES = 64 * 2**20
"""Memory for decoded tiles of which only a part has been used."""
MAX_TILE = 8192
"""Largest side of a tile in pixels."""


class JpegTilesConfig(PluginConfig):
    """Settings of the JPEG tile reader."""

    decode: Literal["full", "half"] = "full"
    """``half``: let the JPEG decoder halve the resolution (scaled inverse DCT) for patches of at most half of level 0's
    resolution. Faster; pixels differ from the average of level 0 by 0.1 to 0.6 grey levels on average."""


class JpegTilesReader(Reader):
    """Decodes JPEG tiles itself if their pixels equal OpenSlide's, and reads everything else with OpenSlide."""

    Config = JpegTilesConfig

    def __init__(self, config: JpegTilesConfig):
        self.config = config

    def open(self, path: Path, mpp: float | None = None) -> Slide:
        return JpegTilesSlide(path, mpp, self.config.decode)


class JpegTilesError(Exception):
    """Why a file's level 0 cannot be read as JPEG tiles."""


class JpegTiles:
    """The JPEG tiles of a TIFF's first image. Raises JpegTilesError if it has none."""

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
        except Exception as error:  # the parser may fail anywhere in a damaged file
            raise JpegTilesError(f"tifffile cannot read it ({error})") from None
        if layers != (True, 3, 8, 1):
            raise JpegTilesError("level 0 is not stored as tiles of three interleaved 8-bit channels")
        if compression != JPEG:
            raise JpegTilesError(f"level 0 is stored as {_name_of_compression(compression)}, not as JPEG")
        if photometric not in ADOBE_TRANSFORM:
            raise JpegTilesError(f"photometric interpretation {photometric} is neither RGB nor YCbCr")
        if min(*self.dimensions, *self.tile_px) < 1 or max(self.tile_px) > MAX_TILE:
            raise JpegTilesError(f"its tags declare {self.dimensions} px in tiles of {self.tile_px}")
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
        """Whether the tile was not scanned."""
        return self._sizes[row * self.columns + column] == 0

    def probes(self) -> list[tuple[int, int]]:
        """(column, row) of tiles all over the slide, of the largest one in bytes, and of a missing one."""
        columns, rows = ((0, count // 2, count - 1) for count in (self.columns, self.rows))
        sizes = np.array(self._sizes)
        special = [int(sizes.argmax()), int(sizes.argmin())]
        places = [(column, row) for row in rows for column in columns]
        return list(dict.fromkeys([*places, *((i % self.columns, i // self.columns) for i in special)]))

    def decode(self, column: int, row: int, scale: Literal[1, 2]) -> NDArray[np.uint8]:
        """A tile as RGB ``(height / scale, width / scale, 3)``. Raises ValueError if it cannot be decoded."""
        index = row * self.columns + column
        with self._file_lock:
            self._file.seek(self._offsets[index])
            stored = self._file.read(self._sizes[index])
        width, height = (side // scale for side in self.tile_px)
        # Without an Adobe marker, decoders take RGB with some component ids for YCbCr.
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
    """A slide opened by OpenSlide whose level 0 is decoded here if a sample of tiles has OpenSlide's pixels."""

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
        """``size`` (width, height) pixels from ``(x, y)``, each the average of ``shrink``² pixels of level 0."""
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
        """A tile averaged over ``shrink``² pixels; with ``keep``, it is cached for neighbouring areas."""
        if not keep:
            return self._make_tile(tiles, column, row, shrink)
        key = (column, row, shrink)
        with self._kept_lock:
            kept = self._kept.pop(key, None)
        tile = self._make_tile(tiles, column, row, shrink) if kept is None else kept
        with self._kept_lock:
            self._kept[key] = tile
            while len(self._kept) * tile.nbytes > CACHE_BYTES:
                self._kept.popitem(last=False)
        return tile

    def _make_tile(self, tiles: JpegTiles, column: int, row: int, shrink: int) -> NDArray[np.uint8]:
        scale: Literal[1, 2] = 2 if self._half and shrink % 2 == 0 else 1
        try:
            pixels = self._decode(tiles, column, row, scale)
        except ValueError:  # OpenSlide tolerates some damage, and reports where it does not
            scale = 1
            x, y = column * tiles.tile_px[0], row * tiles.tile_px[1]
            pixels = super()._region(x, y, 0, *tiles.tile_px)
        if shrink == scale:
            return pixels
        size = (tiles.tile_px[0] // shrink, tiles.tile_px[1] // shrink)
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _decode(self, tiles: JpegTiles, column: int, row: int, scale: Literal[1, 2]) -> NDArray[np.uint8]:
        """A tile at 1/scale, with the background colour where not scanned and beyond the edge of the slide."""
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
        """The file's tiles. Raises JpegTilesError if their pixels differ from OpenSlide's."""
        vendor = self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR)
        if vendor not in VENDORS:
            raise JpegTilesError(
                f"only tiles of {' and '.join(VENDORS)} slides are decoded here, this one is {vendor}"
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
            self._reopen()  # OpenSlide cannot read anything after an error
            raise JpegTilesError(f"{where} is damaged ({error})") from None
        if not np.array_equal(ours, theirs):
            raise JpegTilesError(f"{where} has other pixels than OpenSlide's")
