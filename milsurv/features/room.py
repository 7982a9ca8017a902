"""How much disk features take, told before the first slide is read."""

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
"""Coordinates and grid of a patch in a feature file."""
SAMPLED_SLIDES = 3
"""Whose tissue is found to tell how much disk all slides need."""


def bytes_of_patch(dim: int, dtype: str) -> int:
    """Size of a patch in a feature file: its features, coordinates and place in the grid."""
    return dim * np.dtype(dtype).itemsize + BYTES_OF_PLACE


def most_patches(config: RunConfig, slide: Slide) -> float:
    """Patches over all magnifications if the whole slide were tissue. Raises SlideError when it is of no use."""
    width, height = slide.dimensions
    sides: list[float] = [
        magnification.patch_level0 for magnification in make_magnifications(slide.mpp, config.tiling).values()
    ]
    return float(sum(width * height / side**2 for side in sides))


def tissue_patches(config: RunConfig, registry: Registry, slide: Slide) -> float:
    """Patches of tissue over all magnifications. Raises SlideError when the slide is of no use."""
    mask = find_tissue(registry, config.tissue, slide)
    with slide_faults():
        return float(sum(make_grid(slide.dimensions, slide.mpp, mask, config.tiling).counts.values()))


@contextmanager
def open_referred(config: RunConfig, registry: Registry, slide: SlideRef) -> Iterator[Slide]:
    """The slide of a cohort. Raises SlideError when it has no file or does not open."""
    if slide.path is None:
        raise SlideError(slide.reason or "no file")
    with open_slide(registry, config.reader, slide.path, slide.mpp) as opened:
        yield opened


def nearest_folder(path: Path) -> Path:
    """``path``, or as much of it as is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def free_bytes(folder: Path) -> int:
    """Room on the disk where ``folder`` is, or will be."""
    return shutil.disk_usage(nearest_folder(folder)).free


def lacking_room(
    config: RunConfig, registry: Registry, dim: int, slides: Sequence[SlideRef]
) -> tuple[float, int] | None:
    """(bytes that the features of ``slides`` take, bytes that are free), or None when there is room.

    Estimated from a few of the slides: first as if they were all tissue, and only if that is too much from the tissue
    that they have.
    """
    free = free_bytes(config.workspace)
    sample = [slides[at] for at in np.unique(np.linspace(0, len(slides) - 1, SAMPLED_SLIDES).astype(int))]
    needed = 0.0
    for count in (partial(most_patches, config), partial(tissue_patches, config, registry)):
        counts = []
        for slide in sample:
            try:
                with open_referred(config, registry, slide) as opened:
                    counts.append(count(opened))
            except SlideError:
                continue
        mean = float(np.mean(counts)) if counts else 0.0
        needed = mean * len(slides) * bytes_of_patch(dim, config.extraction.dtype)
        if needed <= free:
            return None
    return needed, free
