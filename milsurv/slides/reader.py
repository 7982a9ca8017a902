"""Reading slides: the base classes of readers, and the reader based on OpenSlide."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypedDict

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

from milsurv.cohort.multi_file import files_of_slide
from milsurv.errors import SlideError
from milsurv.plugin.base import PluginConfig
from milsurv.slides.formats import (
    TiffImage,
    further_images,
    require_file,
    require_rgb,
    require_sound_tiles,
    tiff_images,
    why_not_open,
)
from milsurv.slides.resolution import MppSource, find_resolution

HASHED_BYTES = 256 * 1024
"""Bytes at the start and at the end of a file in its quick hash."""
THUMBNAIL_BLOCK_PX = 2048
"""Side of the blocks in which a pyramid level is read for a thumbnail."""


class Slide(ABC):
    """An open slide, and a context manager that closes it.

    Errors in reading are SlideErrors. Their messages do not name the slide; the caller does.
    """

    path: Path
    dimensions: tuple[int, int]
    """Width and height at level 0, in pixels."""
    mpp: float
    """µm per level-0 pixel."""
    mpp_source: MppSource
    levels: tuple[tuple[int, int], ...]
    """Width and height of each stored level, level 0 first."""
    read_by: str
    """Name of the decoder of the pixels."""
    read_by_reason: str
    """Why it is used."""
    warnings: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the scanned area in level-0 pixels; by default the whole slide."""
        return 0, 0, *self.dimensions

    @property
    def qupath_origin(self) -> tuple[int, int]:
        """The level-0 pixel (x, y) that is QuPath's (0, 0): QuPath's coordinates are relative to the scanned area.

        Add it to QuPath's coordinates to get level-0 pixels.
        """
        return self.bounds[:2]

    @abstractmethod
    def read(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """An area of level 0, averaged down to ``size`` (width, height): RGB ``(size[1], size[0], 3)``.

        ``x, y, width, height`` are level-0 pixels; the area may extend beyond the slide. Areas outside it, or not
        scanned, have the slide's background colour. Always computed from level 0, since stored coarser levels
        differ from its average by several grey levels, depending on the scanner. Raises SlideError, with the
        position, where the file is damaged.
        """

    @abstractmethod
    def thumbnail(self, max_px: int) -> tuple[NDArray[np.uint8], float]:
        """The whole slide as RGB ``(h, w, 3)`` with a longest side of at most ``max_px``, and its downsample.

        ``downsample`` is level-0 pixels per thumbnail pixel, at least 1. Computed from the pyramid, never from the
        label or macro image. Raises SlideError if the file is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reader(ABC):
    """Opens slides."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Store the settings."""

    @abstractmethod
    def open(self, path: Path, mpp: float | None = None) -> Slide:
        """Open the slide at ``path``; ``mpp`` (µm per level-0 pixel) takes precedence over the slide's own.

        Raises SlideError if the file is missing, empty, damaged or not a slide, or if its resolution is unknown.
        """


class OpenSlideReader(Reader):
    """Opens every format that OpenSlide reads."""

    def __init__(self, config: PluginConfig):
        self.config = config

    def open(self, path: Path, mpp: float | None = None) -> Slide:
        return OpenSlideSlide(path, mpp)


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide."""

    def __init__(self, path: Path, mpp: float | None = None):
        self.path = path
        self.read_by, self.read_by_reason = "OpenSlide", "it is configured"
        images = _checked_images(path)
        self._slide = _open(path)
        try:
            self.dimensions = self._slide.dimensions
            self.levels = self._slide.level_dimensions
            properties = self._slide.properties
            require_rgb(images)
            resolution = find_resolution(properties, mpp)
            self.mpp, self.mpp_source, self.warnings = resolution.mpp, resolution.source, resolution.warnings
            if more := further_images(images, self.dimensions):
                self.warnings += (
                    f"it contains {more + 1} images of this size (focal planes or scenes); the first is used",
                )
            background = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
            self._background = np.frombuffer(bytes.fromhex(background), np.uint8)
        except BaseException:
            self._slide.close()
            raise

    def read(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        return _resize(self._region(x, y, 0, width, height), size)

    def thumbnail(self, max_px: int) -> tuple[NDArray[np.uint8], float]:
        downsample = thumbnail_downsample(self.dimensions, max_px)
        level = self._slide.get_best_level_for_downsample(downsample)
        level_width, level_height = self._slide.level_dimensions[level]
        level_downsample = self._slide.level_downsamples[level]
        width, height = thumbnail_size(self.dimensions, downsample)
        picture = np.empty((height, width, 3), np.uint8)
        rows = _blocks(level_height, picture.shape[0])
        columns = _blocks(level_width, picture.shape[1])
        for top, bottom, to_top, to_bottom in rows:
            for left, right, to_left, to_right in columns:
                x, y = round(left * level_downsample), round(top * level_downsample)
                block = self._region(x, y, level, right - left, bottom - top)
                shrunk = _resize(block, (to_right - to_left, to_bottom - to_top))
                picture[to_top:to_bottom, to_left:to_right] = shrunk
        return picture, downsample

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        return find_bounds(self._slide.properties, self.dimensions)

    def close(self) -> None:
        self._slide.close()

    def _reopen(self) -> None:
        self._slide.close()
        self._slide = _open(self.path)

    def _region(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """``width`` × ``height`` pixels of ``level`` from level-0 pixel ``(x, y)``, blended with the background."""
        try:
            rgba = np.asarray(self._slide.read_region((x, y), level, (width, height)))
        except openslide.OpenSlideError as error:
            area = f"{width}×{height} px at level-0 pixel ({x}, {y}), level {level}"
            raise SlideError(f"damaged: cannot read {area}: {error}; copy or scan the slide again") from error
        rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return rgb
        weight = alpha.astype(np.uint32)
        return ((rgb * weight + self._background * (255 - weight) + 127) // 255).astype(np.uint8)


def thumbnail_downsample(dimensions: tuple[int, int], max_px: int) -> float:
    """Level-0 pixels per pixel of a picture with a longest side of at most ``max_px``; at least 1."""
    return max(1.0, max(dimensions) / max_px)


def thumbnail_size(dimensions: tuple[int, int], downsample: float) -> tuple[int, int]:
    """Width and height of that picture."""
    width, height = (max(1, round(side / downsample)) for side in dimensions)
    return width, height


def find_bounds(properties: Mapping[str, str], dimensions: tuple[int, int]) -> tuple[int, int, int, int]:
    """x, y, width and height of the scanned area; the whole slide if the properties contain no valid area."""
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    whole = (0, 0, *dimensions)
    try:
        given = [int(properties.get(name, all_of)) for name, all_of in zip(names, whole, strict=True)]
    except ValueError:
        return whole
    x, y, width, height = given
    within = x >= 0 and y >= 0 and x + width <= dimensions[0] and y + height <= dimensions[1]
    return (x, y, width, height) if within and width > 0 and height > 0 else whole


class SlideIdentity(TypedDict):
    """Size of a slide file in bytes, and ``sha256:…`` of its start and end."""

    size: int
    quick_hash: str


def slide_identity(path: Path) -> SlideIdentity:
    """Size and quick hash (SHA-256 over the size and the first and last 256 KiB) of a slide file.

    For a ``.mrxs`` file, the size is that of the folder with the same name, and the hash that of its ``Slidedat.ini``.
    For a DICOM series, the size is that of all files, and the hash that of their hashes, independent of their names.
    Raises SlideError if a file cannot be read.
    """
    try:
        require_file(path)
        if path.suffix.lower() == ".mrxs":
            folder = path.with_suffix("")
            return _identity(folder / "Slidedat.ini", sum(file.stat().st_size for file in folder.iterdir()))
        each = [_identity(file, require_file(file)) for file in files_of_slide(path)]
    except OSError as error:
        raise _unreadable(error) from None
    if len(each) == 1:
        return each[0]
    together = "".join(sorted(identity["quick_hash"] for identity in each))
    return {
        "size": sum(identity["size"] for identity in each),
        "quick_hash": f"sha256:{hashlib.sha256(together.encode()).hexdigest()}",
    }


def _identity(file: Path, size: int) -> SlideIdentity:
    """``size``, and the hash of it and of both ends of ``file``."""
    with file.open("rb") as opened:
        ends = opened.read(HASHED_BYTES)
        opened.seek(max(0, file.stat().st_size - HASHED_BYTES))
        ends += opened.read(HASHED_BYTES)
    return {"size": size, "quick_hash": f"sha256:{hashlib.sha256(f'{size}:'.encode() + ends).hexdigest()}"}


def _checked_images(path: Path) -> tuple[TiffImage, ...]:
    """The images of a TIFF, none for other files; checked here, since invalid ones can make OpenSlide abort."""
    if not require_file(path):
        raise SlideError("cannot be opened: the file is empty (0 bytes); copy it again")
    try:
        images = tiff_images(path)
    except OSError as error:
        raise _unreadable(error) from None
    require_sound_tiles(images)
    return images


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        message = None
    except openslide.OpenSlideError as error:
        message = str(error)
    try:
        raise SlideError(f"cannot be opened: {why_not_open(path, message)}")
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> SlideError:
    return SlideError(f"cannot be opened: {error.strerror or error} ({error.filename})")


def _blocks(length: int, out_length: int) -> list[tuple[int, int, int, int]]:
    """Blocks of ``length`` pixels to be resized to ``out_length``: (start, stop, resized start, resized stop)."""
    step = max(1, THUMBNAIL_BLOCK_PX * out_length // length)
    cuts = [*range(0, out_length, step), out_length]
    places = [round(cut * length / out_length) for cut in cuts]
    return list(zip(places, places[1:], cuts, cuts[1:], strict=False))


def _resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
