"""Estimates of the disk space for features, before they are extracted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.errors import SlideError
from milsurv.plugin.registry import Registry
from milsurv.slides.grid import make_grid, make_magnifications
from milsurv.slides.opening import find_tissue, open_slide, slide_faults
from milsurv.slides.reader import Slide

BYTES_OF_PLACE = 24
"""Coordinates and grid cell of a patch in a feature file."""
SAMPLED_SLIDES = 3
"""Number of slides whose tissue is segmented to estimate the disk space for all."""


def bytes_per_patch(dim: int, dtype: str) -> int:
    """Size of a patch in a feature file: features, coordinates and grid cell."""
    return dim * np.dtype(dtype).itemsize + BYTES_OF_PLACE


def max_patches(config: RunConfig, slide: Slide) -> float:
    """Patches over all magnifications if the whole slide were tissue. Raises SlideError for an unusable resolution."""
    width, height = slide.dimensions
    magnifications = make_magnifications(slide.mpp, config.tiling).values()
    return float(sum(width * height / magnification.patch_level0**2 for magnification in magnifications))


def tissue_patches(config: RunConfig, registry: Registry, slide: Slide) -> float:
    """Patches of tissue over all magnifications. Raises SlideError when there are none."""
    mask = find_tissue(registry, config.tissue, slide)
    with slide_faults():
        return float(sum(make_grid(slide.dimensions, slide.mpp, mask, config.tiling).counts.values()))


@contextmanager
def open_ref(config: RunConfig, registry: Registry, slide: SlideRef) -> Iterator[Slide]:
    """A slide of the cohort, opened. Raises SlideError when it has no file or does not open."""
    if slide.path is None:
        raise SlideError(slide.reason or "no file")
    with open_slide(registry, config.reader, slide.path, slide.mpp) as opened:
        yield opened


def existing_parent(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def free_bytes(folder: Path) -> int:
    """Free space on the disk of ``folder``, which need not exist yet."""
    return shutil.disk_usage(existing_parent(folder)).free


def missing_space(
    config: RunConfig, registry: Registry, dim: int, slides: Sequence[SlideRef]
) -> tuple[float, int] | None:
    """(bytes required for the features of ``slides``, free bytes), or None when there is enough space.

    Estimated from a few of the slides: first as if they were all tissue; if that does not fit, from their tissue.
    """
    free = free_bytes(config.workspace)
    sample = [slides[at] for at in np.unique(np.linspace(0, len(slides) - 1, SAMPLED_SLIDES).astype(int))]
    needed = 0.0
    for count in (partial(max_patches, config), partial(tissue_patches, config, registry)):
        counts = []
        for slide in sample:
            try:
                with open_ref(config, registry, slide) as opened:
                    counts.append(count(opened))
            except SlideError:
                continue
        mean = float(np.mean(counts)) if counts else 0.0
        needed = mean * len(slides) * bytes_per_patch(dim, config.extraction.dtype)
        if needed <= free:
            return None
    return needed, free
