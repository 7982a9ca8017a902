"""Opening slides and finding their tissue, with every failure turned into an error of that slide."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milsurv.cohort.cases import ALLOWED_MPP, is_valid_mpp
from milsurv.errors import MilsurvError, ResolutionError, SlideFaultError, first_line
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import Registry
from milsurv.slides.reader import Slide
from milsurv.slides.tissue import TissueMask

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
MAX_CHARACTERS = 200
MAX_MM2 = 40_000.0
"""Larger than the largest glass in use (about 180 × 130 mm)."""


@contextmanager
def slide_faults() -> Iterator[None]:
    """Turn any unexpected exception into a SlideFaultError that names it and where it was raised.

    Errors of milsurv, a full disk, and interrupts (which are not an ``Exception``) are not changed.
    """
    try:
        yield
    except MilsurvError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        message = first_line(error)[:MAX_CHARACTERS] or "no message"
        what = f"out of memory ({message})" if isinstance(error, MemoryError) else message
        raise SlideFaultError(f"{name}: {what}", f"{Path(frame.filename).name}:{frame.lineno}") from error


@contextmanager
def open_slide(registry: Registry, reader: PluginSection, path: Path, mpp: float | None) -> Iterator[Slide]:
    """The slide, opened by the configured reader and closed at the end. Raises SlideError if it cannot be opened."""
    with slide_faults():
        slide = registry.create("reader", reader).open(path, mpp)
    try:
        _require_plausible(slide)
        yield slide
    finally:
        with slide_faults():
            slide.close()


def find_tissue(registry: Registry, tissue: PluginSection, slide: Slide) -> TissueMask:
    """The slide's tissue by the configured segmentation. Raises SlideError if that fails."""
    with slide_faults():
        mask: TissueMask = registry.create("tissue", tissue).segment(slide)
        return mask


def _require_plausible(slide: Slide) -> None:
    """Raise ResolutionError if no slide can have that resolution or size."""
    if not is_valid_mpp(slide.mpp):
        raise ResolutionError(f"invalid resolution: {slide.mpp:g} µm/px; allowed: {ALLOWED_MPP}")
    width, height = (side * slide.mpp / 1000 for side in slide.dimensions)
    if width * height > MAX_MM2:
        raise ResolutionError(
            f"invalid size: {width:,.0f} × {height:,.0f} mm at {slide.mpp:.4g} µm/px; allowed: at most {MAX_MM2:,.0f} "
            "mm²; the file is damaged, or its µm/px is wrong"
        )
