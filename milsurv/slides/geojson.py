"""Tissue as drawn in QuPath, read from GeoJSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from milsurv.config.section import AbsolutePath
from milsurv.errors import SlideError
from milsurv.plugin.base import PluginConfig
from milsurv.slides.annotations import Annotations, Ring, read_annotations
from milsurv.slides.reader import Slide, thumbnail_downsample, thumbnail_size
from milsurv.slides.tissue import TissueMask, TissueSegmenter, picture_px

RULES = b"2"
"""How files are understood: a change asks for new masks of the same files."""
CROSSED_AT_ONCE = 2**20
"""Rows crossed by edges that are filled together; bounds the memory of filling."""


class GeoJsonConfig(PluginConfig):
    """Settings of tissue that is read from files."""

    folder: AbsolutePath
    """Holds ``<slide file's stem>.geojson`` for each slide, in level-0 pixels from ``origin`` on."""
    mpp: PositiveFloat = 8.0
    """µm per pixel of the mask."""
    origin: Literal["qupath", "level0"] = "qupath"
    """Where (0, 0) of files is that do not say so: the corner of the scanned area, which is all that QuPath shows, or
    of level 0 (QuPath's ``--no-crop``, other tools). It matters for slides with bounds: MIRAX, SCN, some BIF."""


class GeoJsonTissue(TissueSegmenter):
    """Tissue as drawn: the union of all annotations, without those of a class that is cut out."""

    Config = GeoJsonConfig

    def __init__(self, config: GeoJsonConfig):
        self.config = config

    def source(self, slide: Path) -> str:
        """``sha256:…`` of the slide's GeoJSON, and of how it is understood."""
        return f"sha256:{hashlib.sha256(RULES + self._content(slide)).hexdigest()}"

    def segment(self, slide: Slide) -> TissueMask:
        file = self._file(slide.path)
        downsample = thumbnail_downsample(slide.dimensions, picture_px(slide, self.config.mpp))
        try:
            found = read_annotations(self._content(slide.path))
            origin = self._origin(found, slide)
            warnings = [*_passed_over(found), *_outside(found, slide, origin, downsample)]
        except ValueError as error:
            raise SlideError(f"tissue: {file} cannot be used: {error}") from None
        width, height = thumbnail_size(slide.dimensions, downsample)
        tissue, cut_out = np.zeros((height, width), bool), np.zeros((height, width), bool)
        for mask, areas in ((tissue, found.areas), (cut_out, found.cut_out)):
            for area in areas:
                _fill(mask, [(ring + origin) / downsample for ring in area])
        if not tissue.any():
            raise SlideError(
                f"tissue: {file} holds no tissue: its annotations cover no pixel of {self.config.mpp:g} µm"
            )
        if not (tissue & ~cut_out).any():
            raise SlideError(
                f"tissue: {file} holds no tissue: annotations of the class Ignore* cover all others"
            )
        return TissueMask(tissue & ~cut_out, downsample, tuple(f"its GeoJSON: {text}" for text in warnings))

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
                f"tissue: {self._file(slide)} cannot be read ({error.strerror}); draw the tissue and save it there, "
                "or begin with what milsurv inspect writes"
            ) from None

    def _file(self, slide: Path) -> Path:
        return self.config.folder / f"{slide.stem}.geojson"


def _passed_over(found: Annotations) -> Iterator[str]:
    """A warning of what is no area. Raises ValueError when there is no area at all."""
    told = found.told()
    if not found.areas:
        kinds = [f"{len(found.cut_out)} of the class Ignore*"] if found.cut_out else []
        holds = " and ".join([*kinds, told] if told else kinds) or "nothing"
        raise ValueError(
            f"it has no annotation with an area, but {holds}; draw the tissue as annotations in QuPath"
        )
    if told:
        yield f"passed over {told}; only annotations with an area are tissue"


def _outside(found: Annotations, slide: Slide, origin: tuple[float, float], slack: float) -> Iterator[str]:
    """A warning of what lies beyond the scanned area by more than ``slack``. Raises ValueError when all areas do."""
    x, y, width, height = slide.bounds
    low = np.array([x, y]) - origin  # of the scanned area, as the file counts
    high = low + np.array([width, height])
    lowest, highest = (
        np.array([extreme(np.concatenate(area), axis=0) for area in found.areas])
        for extreme in (np.min, np.max)
    )
    beyond = ((lowest < low - slack) | (highest > high + slack)).any(axis=1)
    away = ((highest <= low) | (lowest >= high)).any(axis=1)
    where = f"{_extent(lowest.min(axis=0), highest.max(axis=0))}; the scanned area has {_extent(low, high)}"
    if found.origin is None and any(slide.qupath_origin):
        other = "level0" if origin == slide.qupath_origin else "qupath"
        where += f"; if the file counts from another corner, set tissue.origin: {other}"
    if away.all():
        raise ValueError(
            f"all its annotations lie outside of the slide: {where}; is it another slide's file?"
        )
    if beyond.any():
        yield f"{beyond.sum()} of {len(beyond)} annotations reach beyond the slide: {where}"


def _extent(low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return f"x from {left:,.0f} to {right:,.0f} and y from {top:,.0f} to {bottom:,.0f} px"


def _fill(mask: NDArray[np.bool_], rings: Sequence[Ring]) -> None:
    """Set the pixels whose centres lie within an odd number of ``rings``."""
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    height, width = mask.shape
    first, last = (
        np.ceil(y - 0.5).clip(0, height).astype(int) for y in np.sort([starts[:, 1], ends[:, 1]], axis=0)
    )
    crossed = last - first  # rows whose centre line an edge crosses
    if not crossed.any():
        return
    top, bottom = first[crossed > 0].min(), last.max()
    left, right = (int(np.ceil(x - 0.5).clip(0, width)) for x in (starts[:, 0].min(), starts[:, 0].max()))
    toggles = np.zeros((bottom - top, right + 1 - left), np.uint8)  # their parity counts
    group = crossed.cumsum() // CROSSED_AT_ONCE
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
