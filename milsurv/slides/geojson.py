"""Tissue drawn in QuPath, read from GeoJSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import PositiveFloat

from milsurv.config.section import AbsolutePath
from milsurv.errors import SlideError
from milsurv.plugin.base import PluginConfig
from milsurv.slides.annotations import Annotations, read_annotations
from milsurv.slides.reader import Slide, thumbnail_downsample, thumbnail_size
from milsurv.slides.tissue import TissueMask, TissueSegmenter, picture_px

RULES = b"2"
"""Version of the rules by which files are read; changed when the mask of a file changes."""
CROSSINGS_AT_ONCE = 2**20
"""Crossings of edges and rows that are processed together; bounds the memory of filling."""


class GeoJsonConfig(PluginConfig):
    """Settings of tissue read from GeoJSON files."""

    folder: AbsolutePath
    """Folder with ``<slide file's stem>.geojson`` for each slide, in level-0 pixels relative to ``origin``."""
    mpp: PositiveFloat = 8.0
    """µm per pixel of the mask."""
    origin: Literal["qupath", "level0"] = "qupath"
    """Position of (0, 0) in files that do not contain it: the corner of the scanned area, as QuPath shows it, or of
    level 0 (QuPath's ``--no-crop``, other tools). They differ for slides with bounds: MIRAX, SCN, some BIF."""


class GeoJsonTissue(TissueSegmenter):
    """Tissue as drawn: the union of all annotations, except those of an excluded class."""

    Config = GeoJsonConfig

    def __init__(self, config: GeoJsonConfig):
        self.config = config

    def source(self, slide: Path) -> str:
        """``sha256:…`` of the slide's GeoJSON and of the rules by which it is read."""
        return f"sha256:{hashlib.sha256(RULES + self._content(slide)).hexdigest()}"

    def segment(self, slide: Slide) -> TissueMask:
        file = self._file(slide.path)
        downsample = thumbnail_downsample(slide.dimensions, picture_px(slide, self.config.mpp))
        try:
            found = read_annotations(self._content(slide.path))
            origin = self._origin(found, slide)
            warnings = [*_check_ignored(found), *_check_outside(found, slide, origin, downsample)]
        except ValueError as error:
            raise SlideError(f"tissue: {file} cannot be used: {error}") from None
        width, height = thumbnail_size(slide.dimensions, downsample)
        tissue, excluded = np.zeros((height, width), bool), np.zeros((height, width), bool)
        for mask, areas in ((tissue, found.areas), (excluded, found.excluded)):
            for area in areas:
                _fill(mask, shapely.transform(area, lambda points: (points + origin) / downsample))
        if not tissue.any():
            raise SlideError(
                f"tissue: {file} contains no tissue: its annotations cover no pixel of {self.config.mpp:g} µm"
            )
        if not (tissue & ~excluded).any():
            raise SlideError(
                f"tissue: {file} contains no tissue: annotations of the class Ignore* cover all others"
            )
        return TissueMask(tissue & ~excluded, downsample, tuple(f"its GeoJSON: {text}" for text in warnings))

    def _origin(self, found: Annotations, slide: Slide) -> tuple[float, float]:
        """The level-0 pixel that is (0, 0) in the file."""
        if found.origin is not None:
            return found.origin
        return slide.qupath_origin if self.config.origin == "qupath" else (0.0, 0.0)

    def _content(self, slide: Path) -> bytes:
        try:
            return self._file(slide).read_bytes()
        except OSError as error:
            raise SlideError(
                f"tissue: {self._file(slide)} cannot be read ({error.strerror}); draw the tissue and export it "
                "there, or start from the file that milsurv inspect writes"
            ) from None

    def _file(self, slide: Path) -> Path:
        return self.config.folder / f"{slide.stem}.geojson"


def _check_ignored(found: Annotations) -> Iterator[str]:
    """A warning about objects without an area. Raises ValueError if there is no area at all."""
    ignored = found.ignored_text()
    if not found.areas:
        kinds = [f"{len(found.excluded)} of the class Ignore*"] if found.excluded else []
        content = " and ".join([*kinds, ignored] if ignored else kinds) or "nothing"
        raise ValueError(
            f"it has no annotation with an area, but {content}; draw the tissue as annotations in QuPath"
        )
    if ignored:
        yield f"ignored {ignored}; only annotations with an area are tissue"


def _check_outside(
    found: Annotations, slide: Slide, origin: tuple[float, float], tolerance: float
) -> Iterator[str]:
    """A warning about areas outside the scanned area by more than ``tolerance``. Raises ValueError if all areas are."""
    x, y, width, height = slide.bounds
    low = np.array([x, y]) - origin  # of the scanned area, in the file's coordinates
    high = low + np.array([width, height])
    lowest, highest = np.split(shapely.bounds(found.areas), 2, axis=1)
    beyond = ((lowest < low - tolerance) | (highest > high + tolerance)).any(axis=1)
    away = ((highest <= low) | (lowest >= high)).any(axis=1)
    where = f"{_extent(lowest.min(axis=0), highest.max(axis=0))}; the scanned area is {_extent(low, high)}"
    if found.origin is None and any(slide.qupath_origin):
        other = "level0" if origin == slide.qupath_origin else "qupath"
        where += f"; if its coordinates start at another corner, set tissue.origin: {other}"
    if away.all():
        raise ValueError(f"all annotations are outside the slide: {where}; is it the file of another slide?")
    if beyond.any():
        yield f"{beyond.sum()} of {len(beyond)} annotations extend beyond the slide: {where}"


def _extent(low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return f"x from {left:,.0f} to {right:,.0f} and y from {top:,.0f} to {bottom:,.0f} px"


def _fill(mask: NDArray[np.bool_], area: shapely.Polygon) -> None:
    """Set the pixels whose centres are within an odd number of the rings of ``area``."""
    rings = [np.asarray(ring.coords) for ring in (area.exterior, *area.interiors)]
    starts, ends = (np.concatenate([ring[part] for ring in rings]) for part in (slice(-1), slice(1, None)))
    height, width = mask.shape
    first, last = (
        np.ceil(y - 0.5).clip(0, height).astype(int) for y in np.sort([starts[:, 1], ends[:, 1]], axis=0)
    )
    crossed = last - first  # rows whose centre line is crossed by an edge
    if not crossed.any():
        return
    top, bottom = first[crossed > 0].min(), last.max()
    left, right = (int(np.ceil(x - 0.5).clip(0, width)) for x in (starts[:, 0].min(), starts[:, 0].max()))
    toggles = np.zeros((bottom - top, right + 1 - left), np.uint8)  # only their parity is used
    group = crossed.cumsum() // CROSSINGS_AT_ONCE
    for edges in np.split(np.arange(len(crossed)), np.flatnonzero(np.diff(group)) + 1):
        edge = np.repeat(edges, crossed[edges])
        row = (
            np.arange(len(edge))
            - np.repeat(crossed[edges].cumsum() - crossed[edges], crossed[edges])
            + first[edge]
        )
        along = (row + 0.5 - starts[edge, 1]) / (ends[edge, 1] - starts[edge, 1])
        x = starts[edge, 0] + along * (ends[edge, 0] - starts[edge, 0])
        np.add.at(toggles, (row - top, np.ceil(x - 0.5).clip(left, right).astype(int) - left), 1)
    inside = toggles.cumsum(axis=1, dtype=np.uint8)[:, :-1] % 2 == 1
    mask[top:bottom, left:right] |= inside
