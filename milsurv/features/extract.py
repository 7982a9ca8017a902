"""From a slide to its feature file: one unit of work, run again only when its file is not whole or not its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from milsurv._version import __version__
from milsurv.artifacts import fingerprint
from milsurv.backbones.base import Backbone
from milsurv.config import PluginSection, RunConfig
from milsurv.errors import MilsurvError, SlideError
from milsurv.executors.base import Report
from milsurv.features.store import ScaleFeatures, read_attributes, write_features
from milsurv.plugin.registry import Registry, get_registry
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import Slide, slide_identity


@dataclass(frozen=True)
class ExtractionSettings:
    """All that decides what a feature file holds, and how it is computed."""

    config: RunConfig
    weights_id: str
    origins: tuple[str | None, ...]
    """Sources of the plugins at work, see ``Registry.origin``."""

    @classmethod
    def of(cls, config: RunConfig, registry: Registry) -> ExtractionSettings:
        """Raises WeightsError when a weights file that the config names is not there."""
        section = config.extracting_backbone
        backbone = registry.create("backbone", section)
        sections = {"reader": config.reader, "tissue": config.tissue, "backbone": section}
        origins = (registry.origin(kind, section.name) for kind, section in sections.items())
        return cls(config, backbone.weights_id(), tuple(origins))

    @property
    def content(self) -> dict[str, Any]:
        """What a changed setting of which asks for new features."""
        config = self.config
        return {
            "reader": config.reader.model_dump(mode="json"),
            "tissue": config.tissue.model_dump(mode="json"),
            "tiling": config.tiling.model_dump(mode="json"),
            "backbone": {
                "name": config.extracting_backbone.name,
                **_without_weights(config.extracting_backbone),
                "weights": self.weights_id,
            },
            "dtype": config.extraction.dtype,
            "origins": self.origins,
        }

    @property
    def folder(self) -> Path:
        """Where feature files of these settings stand."""
        name = self.config.extracting_backbone.name
        return self.config.workspace / "features" / f"{name}-{fingerprint(self.content)}"

    def path(self, slide_id: str) -> Path:
        return self.folder / f"{slide_id}.h5"


def _without_weights(section: PluginSection) -> dict[str, Any]:
    return {key: value for key, value in section.settings.items() if key != "weights"}


@dataclass(frozen=True)
class ExtractedSlide:
    """What became of a slide. ``reason`` is None when its feature file is whole."""

    slide_id: str
    patches: dict[int, int]
    """Magnification -> number of patches."""
    mpp: float | None = None
    mpp_source: str | None = None
    reason: str | None = None
    made_from: Any = None
    """What tells the files that the features were made from, JSON-able; for the run's fingerprint."""


def extracted(
    settings: ExtractionSettings, slide_id: str, slide: Path, mpp: float | None
) -> ExtractedSlide | None:
    """The slide as it was extracted before, or None when that is still to do."""
    path = settings.path(slide_id)
    if not path.is_file():
        return None
    try:
        attributes = read_attributes(path)
        same = attributes["slide"] == slide_identity(slide) and attributes["table_mpp"] == mpp
        if not same or attributes["tissue_source"] != _tissue_source(settings.config, slide):
            return None
    except (MilsurvError, KeyError, OSError):
        return None
    return _outcome(slide_id, attributes)


def _tissue_source(config: RunConfig, slide: Path) -> str | None:
    source: str | None = get_registry(config.plugins).create("tissue", config.tissue).source(slide)
    return source


def _outcome(slide_id: str, attributes: dict[str, Any]) -> ExtractedSlide:
    patches = {int(magnification): count for magnification, count in attributes["patches"].items()}
    return ExtractedSlide(
        slide_id,
        patches,
        attributes["mpp"],
        attributes["mpp_source"],
        made_from=[attributes["slide"]["quick_hash"], attributes["tissue_source"]],
    )


def extract_slide(
    report: Report, settings: ExtractionSettings, slide_id: str, slide: Path, mpp: float | None, device: str
) -> ExtractedSlide:
    """Unit of work: read a slide's patches, embed them, write its feature file, unless it is there already.

    A slide that cannot be used gives a reason in place of a file.
    """
    outcome = extracted(settings, slide_id, slide, mpp) or _extract(
        report, settings, slide_id, slide, mpp, device
    )
    report({"event": "slide", "slide": slide_id, "reason": outcome.reason})
    return outcome


def _extract(
    report: Report, settings: ExtractionSettings, slide_id: str, slide: Path, mpp: float | None, device: str
) -> ExtractedSlide:
    config = settings.config
    registry = get_registry(config.plugins)
    try:
        identity = slide_identity(slide)
        with registry.create("reader", config.reader).open(slide, mpp) as opened:
            source = _tissue_source(config, slide)
            mask = registry.create("tissue", config.tissue).segment(opened)
            grid = make_grid(opened.dimensions, opened.mpp, mask, config.tiling)
            encoder = _encoder(config.plugins, config.extracting_backbone.model_dump_json(), device)
            tissue_patches = grid.counts
            grid, features = _embed(opened, grid, encoder, config, report)
            if slide_identity(slide) != identity:
                raise SlideError("changed while it was read; run again when it is copied as a whole")
            attributes = {
                "slide": identity,
                "table_mpp": mpp,
                "tissue_source": source,
                "read_by": f"{opened.read_by}: {opened.read_by_reason}",
                "mpp": opened.mpp,
                "mpp_source": opened.mpp_source,
                "dimensions": opened.dimensions,
                "patches": {str(m): count for m, count in grid.counts.items()},
                "rejected_patches": {str(m): count - grid.counts[m] for m, count in tissue_patches.items()},
                "tissue_share": mask.fraction,
                "patch_px": config.tiling.patch_px,
                "settings": settings.content,
                "milsurv_version": __version__,
            }
    except SlideError as error:
        return ExtractedSlide(slide_id, {}, reason=str(error))
    scales = {
        m: ScaleFeatures(features[m], grid.coords[m], grid.grid[m], level.mpp, level.patch_level0)
        for m, level in grid.levels.items()
    }
    write_features(settings.path(slide_id), scales, attributes)
    return _outcome(slide_id, attributes)


@dataclass(frozen=True)
class _Encoder:
    """A backbone at work."""

    name: str
    """With its distribution, for errors."""
    dim: int
    network: nn.Module
    device: str

    def embed(self, patches: NDArray[np.uint8], dtype: str, what: str) -> NDArray[Any]:
        """``(n, h, w, 3)`` -> ``(n, dim)``. Raises MilsurvError when the network gives something else."""
        with torch.inference_mode():
            pixels = torch.from_numpy(patches).to(self.device).permute(0, 3, 1, 2)
            vectors = self.network(pixels).to("cpu", torch.float32)
        if vectors.shape != (len(patches), self.dim) or not bool(torch.isfinite(vectors).all()):
            raise MilsurvError(
                f"{self.name} gave for {what} values of shape {tuple(vectors.shape)}, or values that are not finite; "
                f"({len(patches)}, {self.dim}) finite ones are expected: it breaks the promise 'dimension'"
            )
        stored: NDArray[Any] = vectors.numpy().astype(dtype)
        if not np.isfinite(stored).all():
            raise MilsurvError(
                f"{self.name} gave for {what} values beyond {dtype}; set extraction.dtype: float32"
            )
        return stored


@cache
def _encoder(plugins: tuple[Path, ...], backbone: str, device: str) -> _Encoder:
    """The backbone with its network, loaded once per process."""
    section = PluginSection.model_validate_json(backbone)
    registry = get_registry(plugins)
    plugin: Backbone = registry.create("backbone", section)
    network = plugin.load(torch.device(device), torch.float32)
    return _Encoder(registry.describe("backbone", section.name), plugin.dim, network, device)


def _embed(
    slide: Slide, grid: PatchGrid, encoder: _Encoder, config: RunConfig, report: Report
) -> tuple[PatchGrid, dict[int, NDArray[Any]]]:
    """The grid of the patches that are of use, and their features: magnification -> ``(n, dim)`` in its order."""
    dtype = config.extraction.dtype
    features = {m: np.empty((len(places), encoder.dim), dtype) for m, places in grid.coords.items()}
    embedded = {m: np.zeros(len(places), bool) for m, places in grid.coords.items()}
    for magnification, rows, patches in _batches(slide, grid, config):
        what = f"{len(rows)} patches at {magnification}x of {slide.path}"
        features[magnification][rows] = encoder.embed(patches, dtype, what)
        embedded[magnification][rows] = True
        report({"event": "patches", "count": len(rows)})
    if not embedded[max(embedded)].any():
        raise SlideError(
            f"no patch left: all {len(embedded[max(embedded)])} are rejected by tiling.min_sharpness, "
            "tiling.max_white or tiling.max_black"
        )
    return grid.only(embedded), {m: values[embedded[m]] for m, values in features.items()}


def _batches(
    slide: Slide, grid: PatchGrid, config: RunConfig
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
    """The slide's patches in batches of ``extraction.batch_size`` of one magnification, the last one shorter."""
    size = config.extraction.batch_size
    waiting: dict[int, list[tuple[NDArray[np.int64], NDArray[np.uint8]]]] = {m: [] for m in grid.coords}
    for magnification, rows, patches in read_grid(slide, grid, config.tiling):
        waiting[magnification].append((rows, patches))
        if sum(len(some) for some, _ in waiting[magnification]) >= size:
            yield from _cut(magnification, waiting[magnification], size)
            waiting[magnification] = []
    for magnification, blocks in waiting.items():
        if blocks:
            yield from _cut(magnification, blocks, size)


def _cut(
    magnification: int, blocks: list[tuple[NDArray[np.int64], NDArray[np.uint8]]], size: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
    rows = np.concatenate([some for some, _ in blocks])
    patches = np.concatenate([some for _, some in blocks])
    for start in range(0, len(rows), size):
        yield magnification, rows[start : start + size], patches[start : start + size]
