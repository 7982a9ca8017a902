"""What becomes of a cohort's slides, told from the header of every file and the content of a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.cohort.cases import SlideRef
from milsurv.errors import TABLE_ADVICE, SlideError
from milsurv.executors.base import Context
from milsurv.features.bag import Bag
from milsurv.features.extract import ExtractedSlide, ExtractionSettings, left_out
from milsurv.features.importers.importing import ImportSettings, import_slide, require_equal_dims
from milsurv.features.room import bytes_of_patch, most_patches, open_referred
from milsurv.features.store import MagnificationFeatures, read_bag, write_features
from milsurv.plugin.registry import Registry
from milsurv.runs.folder import FeatureSettings
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.opening import find_tissue, slide_faults
from milsurv.slides.patches import read_grid
from milsurv.training.data import sample_patches

SAMPLED_SLIDES = 3
SAMPLED_PATCHES = 16
"""Of the finest magnification, of each sampled slide."""


@dataclass
class Sample:
    """What a look at the slides found."""

    outcomes: dict[str, ExtractedSlide] = field(default_factory=dict)
    """Slide id -> what a run will make of it, as far as headers and the sample tell."""
    new: list[SlideRef] = field(default_factory=list)
    """The usable slides whose features are still to be extracted."""
    bytes: float = 0.0
    """Disk space that the features still take, were each slide tissue all over."""
    files: list[Path] = field(default_factory=list)
    """Feature files with a few patches of each sampled slide."""
    patches: NDArray[np.uint8] | None = None
    """``(n, h, w, 3)``: of a sampled slide, where slides are read."""


def look_at(
    slides: Sequence[SlideRef], settings: FeatureSettings, registry: Registry, folder: Path
) -> Sample:
    """Look at every slide's file, and into a few of them, whose feature files are written to ``folder``.

    While none of the sampled slides can be used, more are looked into. Raises MilsurvError when features of
    different lengths are to be imported.
    """
    sample = Sample()
    dims = {}
    for slide in slides:
        doubts: Sequence[str] = ()
        try:
            if slide.path is None:
                raise SlideError(slide.reason or "no file")
            if isinstance(settings, ImportSettings):
                dims[slide.slide_id] = {m: d for m, (_, d) in settings.shapes(slide.path).items()}
                sample.bytes += sum(file.stat().st_size for file in settings.files(slide.path).values())
            elif not settings.done_before(slide):
                with open_referred(settings.config, registry, slide) as opened:
                    each = bytes_of_patch(settings.dim, settings.config.extraction.dtype)
                    sample.bytes += most_patches(settings.config, opened) * each
                    doubts = opened.doubts
                sample.new.append(slide)
            sample.outcomes[slide.slide_id] = ExtractedSlide(slide.slide_id, {}, doubts=tuple(doubts))
        except SlideError as error:
            sample.outcomes[slide.slide_id] = left_out(slide.slide_id, error, TABLE_ADVICE)
    require_equal_dims(dims)
    usable = [slide for slide in slides if sample.outcomes[slide.slide_id].reason is None]
    for slide in _spread(usable):
        if len(sample.files) == SAMPLED_SLIDES:
            break
        path = folder / f"{slide.slide_id}.h5"
        outcome = _few_patches(slide, settings, registry, path, sample)
        if outcome.reason is None:
            sample.files.append(path)
        else:
            sample.outcomes[slide.slide_id] = outcome
    return sample


def _spread(slides: Sequence[SlideRef]) -> list[SlideRef]:
    """All of the slides, first some from the whole length of the list."""
    first = np.linspace(0, len(slides) - 1, SAMPLED_SLIDES).astype(int).tolist() if slides else []
    return [slides[at] for at in dict.fromkeys([*first, *range(len(slides))])]


def _few_patches(
    slide: SlideRef, settings: FeatureSettings, registry: Registry, path: Path, sample: Sample
) -> ExtractedSlide:
    """Write the feature file of a few of the slide's patches to ``path``; gives a reason when it cannot be used."""
    outcome = sample.outcomes[slide.slide_id]
    if isinstance(settings, ImportSettings):
        config = settings.config.model_copy(update={"workspace": path.parent})
        there = replace(settings, config=config)
        assert slide.path is not None
        outcome = import_slide(Context(), there, slide.slide_id, slide.path, slide.mpp)
        if outcome.reason is None:
            _write(path, _few(read_bag(there.path(slide.slide_id))))
            there.path(slide.slide_id).unlink()
    elif slide in sample.new:
        try:
            bag, sample.patches = _read_few(slide, settings, registry)
        except SlideError as error:
            return left_out(slide.slide_id, error, TABLE_ADVICE)
        _write(path, bag)
    else:
        _write(path, _few(read_bag(settings.path(slide.slide_id))))
    return outcome


def _read_few(
    slide: SlideRef, settings: ExtractionSettings, registry: Registry
) -> tuple[Bag, NDArray[np.uint8]]:
    """A few of the slide's patches with random features in the right shape, and those of the finest magnification."""
    config = settings.config
    with open_referred(config, registry, slide) as opened:
        mask = find_tissue(registry, config.tissue, opened)
        with slide_faults():
            grid = _few_of_grid(make_grid(opened.dimensions, opened.mpp, mask, config.tiling))
        read: dict[int, list[NDArray[Any]]] = {m: [] for m in grid.grid}
        for magnification, _, patches in read_grid(opened, grid, config.tiling, threads=1):
            read[magnification].append(patches)
    random = torch.Generator().manual_seed(0)
    features = {m: torch.randn(n, settings.dim, generator=random) for m, n in grid.counts.items()}
    coords = {m: torch.from_numpy(places) for m, places in grid.coords.items()}
    cells = {m: torch.from_numpy(places) for m, places in grid.grid.items()}
    return Bag(features, coords, cells), np.concatenate(read[max(read)])


def _few_of_grid(grid: PatchGrid) -> PatchGrid:
    rows = {m: torch.arange(n).unsqueeze(1) for m, n in grid.counts.items()}
    few = _few(Bag(rows, grid={m: torch.from_numpy(places) for m, places in grid.grid.items()}))
    kept = {m: np.isin(np.arange(n), few.features[m].numpy()) for m, n in grid.counts.items()}
    return grid.only(kept)


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
