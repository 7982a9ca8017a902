"""Predicts how a run will process a cohort's slides, from all file headers and the content of a few slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.cohort.cases import SlideRef
from milsurv.errors import SlideError
from milsurv.features.bag import Bag
from milsurv.features.source import FeatureSource, SlideCheck, SlideOutcome
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.training.data import sample_patches

SAMPLED_SLIDES = 3
SAMPLED_PATCHES = 16
"""Number of patches of the finest magnification of each sampled slide."""


@dataclass
class Sample:
    """The result of :func:`sample_slides`."""

    outcomes: dict[str, SlideOutcome] = field(default_factory=dict)
    """Slide id -> expected outcome in a run, according to the headers and the sample."""
    to_do: bool = False
    """Whether features of a usable slide are still to be extracted."""
    bytes: float = 0.0
    """Upper limit of the disk space for the features that do not exist yet."""
    files: list[Path] = field(default_factory=list)
    """Feature files with a few patches of each sampled slide."""
    patches: NDArray[np.uint8] | None = None
    """``(n, h, w, 3)`` of a sampled slide whose features are still to be extracted."""


def sample_slides(slides: Sequence[SlideRef], source: FeatureSource, folder: Path) -> Sample:
    """Check the header of every slide's file, and read a few slides, whose feature files are written to ``folder``.

    More slides are read as long as none of the sampled slides can be used. Raises MilsurvError when imported features
    have different lengths.
    """
    sample = Sample()
    checks: dict[str, SlideCheck] = {}
    for slide in slides:
        try:
            if slide.path is None:
                raise SlideError(slide.reason or "no file")
            check = checks[slide.slide_id] = source.check_slide(slide)
            sample.outcomes[slide.slide_id] = SlideOutcome(slide.slide_id, warnings=check.warnings)
        except SlideError as error:
            sample.outcomes[slide.slide_id] = SlideOutcome.excluded(slide.slide_id, error)
    source.require_equal_dims((slide_id, check.dims) for slide_id, check in checks.items())
    sample.bytes = sum(check.bytes for check in checks.values())
    sample.to_do = any(check.to_do for check in checks.values())
    for slide in _spread([slide for slide in slides if slide.slide_id in checks]):
        if len(sample.files) == SAMPLED_SLIDES:
            break
        path = folder / f"{slide.slide_id}.h5"
        try:
            bag, patches = source.sample(slide, _few)
        except SlideError as error:
            sample.outcomes[slide.slide_id] = SlideOutcome.excluded(slide.slide_id, error)
            continue
        _write(path, bag)
        sample.files.append(path)
        sample.patches = sample.patches if patches is None else patches
    return sample


def _spread(slides: Sequence[SlideRef]) -> list[SlideRef]:
    """All slides, starting with a sample spread evenly over the list."""
    first = np.linspace(0, len(slides) - 1, SAMPLED_SLIDES).astype(int).tolist() if slides else []
    return [slides[at] for at in dict.fromkeys([*first, *range(len(slides))])]


def _few(bag: Bag) -> Bag:
    return sample_patches(bag, SAMPLED_PATCHES, torch.Generator().manual_seed(0))


def _write(path: Path, bag: Bag) -> None:
    by_magnification = {
        m: MagnificationFeatures(
            features.numpy(),
            None if bag.coords is None else bag.coords[m].numpy(),
            None if bag.grid is None else bag.grid[m].numpy(),
        )
        for m, features in bag.features.items()
    }
    write_features(path, by_magnification, {})
