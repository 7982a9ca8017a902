"""A slide as a run would see it: resolution, tissue and patches, and the time and disk space required."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milsurv.cohort.ids import SLIDE_SUFFIXES
from milsurv.cohort.locate import index_slides
from milsurv.cohort.table import read_cohort
from milsurv.config.cohort import SyntheticCohort
from milsurv.config.run import RunConfig, Tiling
from milsurv.errors import MilsurvError, SlideError, slide_reason
from milsurv.executors.base import Context
from milsurv.features.disk_space import bytes_per_patch
from milsurv.features.embedding import load_encoder
from milsurv.features.extraction import Extraction
from milsurv.plugin.registry import Registry
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.opening import find_tissue, open_slide, slide_faults
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import Slide
from milsurv.slides.tissue import TissueMask, mask_warnings

SAMPLED_PLACES = 4
"""Patches of the coarsest magnification that are read to estimate the reading time."""
THUMBNAIL_PX = 1200
TIMED_BATCHES = 3
MPP_ADVICE = "give the µm per level-0 pixel with --mpp, or in the table of the --config (cohort.columns.mpp)"


@dataclass(frozen=True)
class SlideInspection:
    """A slide as a run with a given configuration would see it.

    Attributes:
        reason: why it would be excluded, or None; if set, the following may be missing.
        levels: (width, height) of each stored level.
        qupath_origin: the level-0 pixel that is QuPath's (0, 0).
        tissue_mm2: area of the tissue.
        read_seconds: estimated time to read all patches, one thread.
    """

    path: Path
    reason: str | None = None
    dimensions: tuple[int, int] | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    read_by: str = ""
    read_by_reason: str = ""
    levels: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()
    qupath_origin: tuple[int, int] = (0, 0)
    mask: TissueMask | None = None
    tissue_mm2: float | None = None
    grid: PatchGrid | None = None
    read_seconds: float | None = None
    thumbnail: NDArray[np.uint8] | None = None

    @property
    def patches(self) -> dict[int, int]:
        """Magnification -> number of patches."""
        return {} if self.grid is None else self.grid.counts

    def disk_bytes(self, dim: int, dtype: str) -> int:
        """Size of the feature file with vectors of ``dim`` numbers of ``dtype``."""
        return sum(self.patches.values()) * bytes_per_patch(dim, dtype)


def slides_to_inspect(path: Path, config: RunConfig, mpp: float | None = None) -> dict[Path, float | None]:
    """The slide, or the slides in a folder, with the µm/px of the configuration's cohort table, else ``mpp``.

    Raises MilsurvError when there is no slide, or when the configuration imports features.
    """
    if not config.reads_slides:
        raise MilsurvError(
            f"configuration '{config.name}' imports features and reads no slides; use another one"
        )
    if path.is_dir():
        files = index_slides(path).files
        if not files:
            raise MilsurvError(f"{path}: no slide files; they end in {', '.join(SLIDE_SUFFIXES)}")
    else:
        files = (path,)
    table = _table_mpp(config)
    return {file: table.get(file.resolve()) or mpp for file in files}


def _table_mpp(config: RunConfig) -> Mapping[Path, float | None]:
    if isinstance(config.cohort, SyntheticCohort) or config.cohort.columns.mpp is None:
        return {}
    slides = (slide for case in read_cohort(config.cohort).cases for slide in case.slides)
    return {slide.path.resolve(): slide.mpp for slide in slides if slide.path is not None}


def inspect_slide(path: Path, mpp: float | None, config: RunConfig, registry: Registry) -> SlideInspection:
    """Open the slide, find its tissue and patches, and read a few of them. A failure is the ``reason``."""
    found = SlideInspection(path)
    try:
        with open_slide(registry, config.reader, path, mpp) as slide:
            found = SlideInspection(
                path,
                dimensions=slide.dimensions,
                mpp=slide.mpp,
                mpp_source=slide.mpp_source,
                read_by=slide.read_by,
                read_by_reason=slide.read_by_reason,
                levels=slide.levels,
                warnings=slide.warnings,
                qupath_origin=slide.qupath_origin,
            )
            return _with_tissue(found, slide, config, registry)
    except SlideError as error:
        return replace(found, reason=slide_reason(error, MPP_ADVICE))


def _with_tissue(
    found: SlideInspection, slide: Slide, config: RunConfig, registry: Registry
) -> SlideInspection:
    with slide_faults():
        thumbnail, _ = slide.thumbnail(THUMBNAIL_PX)
    mask = find_tissue(registry, config.tissue, slide)
    area = float(mask.mask.sum()) * (mask.downsample * slide.mpp / 1000) ** 2
    seen = replace(
        found,
        thumbnail=thumbnail,
        mask=mask,
        tissue_mm2=area,
        warnings=(*slide.warnings, *mask_warnings(mask, slide)),
    )
    try:
        with slide_faults():
            grid = make_grid(slide.dimensions, slide.mpp, mask, config.tiling)
        seconds = _read_seconds(slide, grid, config.tiling)
    except SlideError as error:
        return replace(seen, reason=slide_reason(error, MPP_ADVICE))
    return replace(seen, grid=grid, read_seconds=seconds)


def _read_seconds(slide: Slide, grid: PatchGrid, tiling: Tiling) -> float:
    """Time to read all patches, from the time for a few patches of the coarsest magnification and their finer ones."""
    coarsest = min(grid.grid)
    places = grid.grid[coarsest]
    chosen = places[np.linspace(0, len(places) - 1, min(len(places), SAMPLED_PLACES)).round().astype(int)]
    sample = PatchGrid(grid.magnifications, {**grid.grid, coarsest: chosen}, grid.coords)
    started = time.perf_counter()
    for _ in read_grid(slide, sample, tiling):
        pass
    return (time.perf_counter() - started) / len(chosen) * len(places)


def embedding_seconds(context: Context, extraction: Extraction) -> float:
    """Time of the backbone per patch, measured with grey patches. Raises WeightsError if weights are not available."""
    encoder = load_encoder(context, extraction.config, extraction.precision)
    tiling = extraction.config.tiling
    n, px = encoder.batch_size, tiling.patch_px
    patches, rows = np.full((n, px, px, 3), 128, np.uint8), np.arange(n)
    finest = max(tiling.magnifications)
    times = []
    for _ in range(TIMED_BATCHES):
        started = time.perf_counter()
        with encoder.slide("grey patches", {finest: np.zeros((n, 2), np.int64)}, "float32") as slide:
            encoder.put(slide, finest, rows, patches)
        times.append(time.perf_counter() - started)
    return min(times) / n
