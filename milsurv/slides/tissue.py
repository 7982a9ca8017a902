"""Tissue segmentation: the base class, and segmentation by colour saturation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from milsurv.plugin.base import PluginConfig
from milsurv.slides.glass import on_clear_glass
from milsurv.slides.ink import find_ink, straight_edges
from milsurv.slides.reader import Slide


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a slide: mask ``(h, w)``, and level-0 pixels per mask pixel."""

    mask: NDArray[np.bool_]
    downsample: float
    warnings: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask.mean())

    def outlines(self) -> list[NDArray[np.int64]]:
        """Closed outlines of tissue and of its holes, each ``(k, 2)`` in level-0 pixels (x, y)."""
        contours, _ = cv2.findContours(self.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        return [np.rint((contour[:, 0] + 0.5) * self.downsample).astype(np.int64) for contour in contours]


NEARLY_ALL, NEARLY_NOTHING = 0.95, 0.005
"""Shares of the scanned area above and below which a mask is warned about."""


def mask_warnings(mask: TissueMask, slide: Slide) -> tuple[str, ...]:
    """The mask's warnings, and another if it covers nearly all or nearly nothing of the scanned area."""
    _, _, width, height = slide.bounds
    share = mask.mask.sum() * mask.downsample**2 / (width * height)
    if share >= NEARLY_ALL:
        warning = f"{min(share, 1):.0%} of the scanned area is tissue: perhaps glass was mistaken for tissue"
    elif 0 < share < NEARLY_NOTHING:
        warning = f"only {share:.2%} of the scanned area is tissue: perhaps tissue was mistaken for glass"
    else:
        return mask.warnings
    return *mask.warnings, f"{warning}; check it with milsurv inspect"


class TissueSegmenter(ABC):
    """Separates tissue from glass."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Store the settings."""

    def source(self, slide: Path) -> str | None:  # noqa: ARG002
        """Identifies a further input of the mask, such as the hash of an annotation file; None if there is none."""
        return None

    @abstractmethod
    def segment(self, slide: Slide) -> TissueMask:
        """The slide's tissue; without tissue, no pixel of the mask is true.

        Raises SlideError if the slide cannot be read.
        """


def picture_px(slide: Slide, mpp: float) -> int:
    """Longest side of a picture of the slide with ``mpp`` µm per pixel."""
    return math.ceil(max(slide.dimensions) * slide.mpp / mpp)


BLACK = 60
"""Largest value of the highest channel of a black pixel."""
BLACK_SLIDE = (
    "{:.0%} of the slide is black: only stained tissue on bright glass is supported, not fluorescence"
)


class OtsuConfig(PluginConfig):
    """Settings of tissue segmentation by saturation."""

    mpp: PositiveFloat = 8.0
    """µm per pixel at which the slide is segmented; coarser slides are segmented at their own resolution."""
    min_saturation: float = Field(default=0.06, ge=0, le=1)
    """Lower limit of Otsu's threshold on HSV saturation, so that an empty slide has no tissue."""
    sure_saturation: float = Field(default=0.12, ge=0, le=1)
    """Upper limit of Otsu's threshold on HSV saturation, so that a slide full of tissue is not split."""
    min_area_mm2: NonNegativeFloat = 0.05
    """Minimum area of a piece of tissue; smaller ones are removed."""
    max_hole_mm2: NonNegativeFloat = 0.05
    """Maximum area of a hole; smaller ones are filled."""
    remove_ink: bool = True
    """Remove blue, green and black pen marks."""
    max_edge_um: NonNegativeFloat = 200.0
    """Maximum width of coverslip edges: straight pieces at least ten times as long as wide, which are removed."""

    @model_validator(mode="after")
    def _ordered(self) -> OtsuConfig:
        if self.sure_saturation < self.min_saturation:
            raise ValueError(f"sure_saturation must be at least min_saturation, {self.min_saturation}")
        return self


class OtsuTissue(TissueSegmenter):
    """Otsu's threshold on HSV saturation, within two bounds: tissue is stained, glass is not.

    The tint of the slide's glass is removed first (see :mod:`milsurv.slides.glass`). Otsu's method ("A threshold
    selection method from gray-level histograms", 1979) splits any picture in two; the bounds keep it from splitting
    bare glass, or tissue that fills the slide. Pen marks and edges of glass are removed (see
    :mod:`milsurv.slides.ink`).
    """

    Config = OtsuConfig
    SMOOTHING_UM: ClassVar[float] = 56.0
    """Width of the median filter before thresholding and of the closing after it."""

    def __init__(self, config: OtsuConfig):
        self.config = config

    def segment(self, slide: Slide) -> TissueMask:
        picture, downsample = slide.thumbnail(picture_px(slide, self.config.mpp))
        mpp = slide.mpp * downsample
        width = 2 * round(self.SMOOTHING_UM / mpp / 2) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
        picture = on_clear_glass(picture, width)
        ink = find_ink(picture, width) if self.config.remove_ink else np.zeros(picture.shape[:2], bool)
        tissue = np.pad(self._saturated(picture, width, ink), width)  # glass outside the slide
        tissue = np.asarray(cv2.morphologyEx(tissue, cv2.MORPH_CLOSE, disc), np.uint8)
        if ink.any():
            tissue[cv2.dilate(np.pad(ink.astype(np.uint8), width), disc, iterations=2) == 1] = 0
        tissue[straight_edges(tissue, self.config.max_edge_um / mpp)] = 0
        px_per_mm2 = (1000 / mpp) ** 2
        tissue[_small_pieces(tissue, self.config.min_area_mm2 * px_per_mm2)] = 0
        tissue[_small_pieces(1 - tissue, self.config.max_hole_mm2 * px_per_mm2)] = 1
        black = float((picture.max(axis=2) <= BLACK).mean())
        warnings = (BLACK_SLIDE.format(black),) if black > 0.5 else ()
        return TissueMask(tissue[width:-width, width:-width].astype(bool), downsample, warnings)

    def _saturated(
        self, picture: NDArray[np.uint8], median_px: int, ink: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """1 where the smoothed saturation of an RGB picture is above the threshold, 0 elsewhere."""
        saturation = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1]
        saturation = cv2.medianBlur(np.ascontiguousarray(saturation), median_px)
        clean = saturation[~ink] if not ink.all() else saturation
        otsu, _ = cv2.threshold(clean, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        threshold = min(max(otsu, 255 * self.config.min_saturation), 255 * self.config.sure_saturation)
        return (saturation > threshold).astype(np.uint8)


def _small_pieces(mask: NDArray[np.uint8], area: float) -> NDArray[np.bool_]:
    """Pieces of fewer than ``area`` pixels in a ``mask`` of 0 and 1, except the one at the outer corner."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < area
    small[[0, labels[0, 0]]] = False  # label 0 is the background
    return np.asarray(small[labels])
