"""Features that milsurv extracts from slides: settings, and the extraction of one slide."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.backbones.base import Backbone, Precision
from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError, SlideError, size
from milsurv.executors.base import Context, Resources
from milsurv.executors.devices import Device
from milsurv.features.bag import Bag
from milsurv.features.disk_space import bytes_per_patch, max_patches, missing_space, open_ref
from milsurv.features.embedding import choose_precision, embed, load_encoder
from milsurv.features.source import FeatureSource, SlideCheck
from milsurv.features.store import MagnificationFeatures, read_attributes, read_bag
from milsurv.plugin.registry import Registry
from milsurv.plugin.sources import framework_fingerprint
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.opening import find_tissue, open_slide, slide_faults
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import slide_identity
from milsurv.slides.tissue import mask_warnings
from milsurv.storage.atomic import fingerprint
from milsurv.storage.checksums import sha256_of

LARGE_WEIGHTS = 5 * 10**8
"""Bytes of a weights file beyond which a check does not load it."""
CONTENT_KEYS: tuple[Callable[[Path], Hashable], ...] = (
    lambda slide: slide.stat().st_size,
    lambda slide: slide_identity(slide)["quick_hash"],
    sha256_of,
)
CHECKED_PATCHES = 4
"""Patches that a check embeds."""


@dataclass(frozen=True)
class Extraction(FeatureSource):
    """Features that a backbone computes from the patches of slides."""

    weights_id: str
    transform: dict[str, Any]
    """What the backbone does to patches, see ``Backbone.transform``."""
    precision: Precision
    """Dtype of the network's computation on the run's device."""
    dim: int
    """Length of a feature vector."""
    trained_at: tuple[int, ...]
    """Magnifications that the backbone was trained at, see ``Backbone.trained_at``."""

    verb = "extracting"
    code: ClassVar[tuple[str, ...]] = (
        "milsurv.features.embedding",
        "milsurv.features.encoder",
        "milsurv.slides.grid",
        "milsurv.slides.opening",
        "milsurv.slides.patches",
    )
    free_settings = ("precision", "dtype")  # they change no more than rounding
    usable = "open, or have features already"
    size_of = "features, if every slide were all tissue,"
    recorded = (*FeatureSource.recorded, "warnings")

    @classmethod
    def of(cls, config: RunConfig, registry: Registry, device: Device) -> Extraction:
        """For extraction on ``device``. Raises WeightsError when a configured weights file does not exist."""
        section = config.extracting_backbone
        backbone: Backbone = registry.create("backbone", section)
        names = {"reader": config.reader.name, "tissue": config.tissue.name, "backbone": section.name}
        return cls(
            config,
            {(kind, name): registry.origin(kind, name) for kind, name in names.items()},
            backbone.weights_id(),
            backbone.transform,
            choose_precision(config.extraction.precision, backbone.precision, device),
            backbone.dim,
            backbone.trained_at,
        )

    @property
    def content(self) -> dict[str, Any]:
        config, backbone = self.config, self.config.extracting_backbone
        settings = {key: value for key, value in backbone.settings.items() if key != "weights"}
        return {
            "reader": config.reader.model_dump(mode="json"),
            "tissue": config.tissue.model_dump(mode="json"),
            "tiling": config.tiling.model_dump(mode="json"),
            "backbone": {
                "name": backbone.name,
                **settings,
                "weights": self.weights_id,
                "transform": self.transform,
            },
            "precision": self.precision,
            "dtype": config.extraction.dtype,
            "origins": {
                **{kind: origin for (kind, _), origin in self.origins.items()},
                "milsurv": framework_fingerprint(*self.code),
            },
        }

    @cached_property
    def folder(self) -> Path:
        name = self.config.extracting_backbone.name
        return self.config.workspace / "features" / f"{name}-{fingerprint(self.content)}"

    @property
    def summary(self) -> dict[str, str | None]:
        return {"imported": None, "precision": self.precision}

    @property
    def content_keys(self) -> Sequence[Callable[[Path], Hashable]]:
        return CONTENT_KEYS

    def identity(self, slide: SlideRef) -> dict[str, Any]:
        """``slide``: size and quick hash; ``tissue_source``: those of the file that outlines the tissue, if any."""
        assert slide.path is not None
        tissue = self.registry.create("tissue", self.config.tissue)
        return {"slide": slide_identity(slide.path), "tissue_source": tissue.source(slide.path)}

    def made_from(self, attributes: Mapping[str, Any]) -> list[str | None]:
        return [attributes["slide"]["quick_hash"], attributes["tissue_source"]]

    def resources(self, device: Device) -> Resources:
        """Two slides share a GPU: one provides patches while the other is opened or written."""
        return Resources(gpus=0.5 if device.kind == "cuda" else 0)

    def warnings(self, slides: Sequence[SlideRef]) -> Iterator[str]:
        """Warnings about magnifications that the backbone was not trained at, and about missing disk space."""
        config, name = self.config, self.config.extracting_backbone.name
        new = [m for m in config.tiling.magnifications if self.trained_at and m not in self.trained_at]
        if new:
            asked, trained = (" and ".join(f"{m}x" for m in some) for some in (new, self.trained_at))
            yield f"backbone {name} was trained at {trained}; its features at {asked} may be less informative"
        if slides and (found := missing_space(config, self.registry, self.dim, slides)):
            needed, free = map(size, found)
            yield (
                f"the features of {len(slides)} slides take about {needed}, but {config.workspace} has {free} free: "
                "free some space, or choose another --workspace; finished features are kept when the disk is full"
            )

    def require_own_file(self, slide: SlideRef) -> None:
        path = self.path(slide.slide_id)
        if slide.path is None or not path.is_file():
            return
        found = read_attributes(path, ("slide", "table_mpp"))
        if found["slide"] != slide_identity(slide.path):
            raise MilsurvError(
                f"{slide.path}: {path} holds the features of another slide named {slide.slide_id}; rename this one, or "
                "give another --workspace"
            )
        if found["table_mpp"] != slide.mpp:
            raise MilsurvError(
                f"{slide.path}: its features in {path} were extracted at {found['table_mpp'] or 'its own'} µm/px from "
                f"a cohort table, but {slide.mpp or 'its own'} is requested; give another --workspace"
            )

    def require_equal_dims(self, dims: Iterable[tuple[str, Mapping[int, int]]]) -> None:
        """All vectors of one backbone have the same length."""

    def check_slide(self, slide: SlideRef) -> SlideCheck:
        if self.done_before(slide):
            return SlideCheck()
        with open_ref(self.config, self.registry, slide) as opened:
            needed = max_patches(self.config, opened) * bytes_per_patch(
                self.dim, self.config.extraction.dtype
            )
            return SlideCheck(to_do=True, bytes=needed, warnings=tuple(opened.warnings))

    def sample(self, slide: SlideRef, choose: Callable[[Bag], Bag]) -> tuple[Bag, NDArray[np.uint8] | None]:
        if self.done_before(slide):
            return choose(read_bag(self.path(slide.slide_id))), None
        config, registry = self.config, self.registry
        with open_ref(config, registry, slide) as opened:
            mask = find_tissue(registry, config.tissue, opened)
            with slide_faults():
                grid = _chosen(make_grid(opened.dimensions, opened.mpp, mask, config.tiling), choose)
            read: dict[int, list[NDArray[Any]]] = {m: [] for m in grid.grid}
            for magnification, _, patches in read_grid(opened, grid, config.tiling, threads=1):
                read[magnification].append(patches)
        random = torch.Generator().manual_seed(0)
        features = {m: torch.randn(n, self.dim, generator=random) for m, n in grid.counts.items()}
        coords = {m: torch.from_numpy(places) for m, places in grid.coords.items()}
        cells = {m: torch.from_numpy(places) for m, places in grid.grid.items()}
        return Bag(features, coords, cells), np.concatenate(read[max(read)])

    def check_backbone(
        self, context: Context, patches: NDArray[np.uint8] | None
    ) -> tuple[list[str], list[str]]:
        section = self.config.extracting_backbone
        found = self.registry.create("backbone", section).find_weights()
        notes = [] if found.note is None else [found.note]
        if found.file is None:
            return [], notes
        count = found.file.stat().st_size
        if count > LARGE_WEIGHTS:
            return [
                f"found the weights of {section.name} ({size(count)}); too large to load in a check"
            ], notes
        if patches is not None:
            few, finest = patches[:CHECKED_PATCHES], max(self.config.tiling.magnifications)
            encoder = load_encoder(context, self.config, self.precision)
            coords = {finest: np.zeros((len(few), 2), np.int64)}
            with encoder.slide("a sampled slide", coords, self.config.extraction.dtype) as slide:
                encoder.put(slide, finest, np.arange(len(few)), few)
        return [], notes

    def make(
        self, context: Context, slide: SlideRef
    ) -> tuple[dict[int, MagnificationFeatures], dict[str, Any]]:
        """Read the slide's patches and embed them."""
        config, registry = self.config, self.registry
        assert slide.path is not None
        with slide_faults():
            identity = self.identity(slide)
        with open_slide(registry, config.reader, slide.path, slide.mpp) as opened:
            mask = find_tissue(registry, config.tissue, opened)
            with slide_faults():
                grid = make_grid(opened.dimensions, opened.mpp, mask, config.tiling)
            tissue_patches = grid.counts
            grid, features = embed(context, opened, grid, config, self.precision)
            if slide_identity(slide.path) != identity["slide"]:
                raise SlideError("changed while it was read; run again once the copy is complete")
            attributes = {
                **identity,
                "read_by": f"{opened.read_by}: {opened.read_by_reason}",
                "mpp": opened.mpp,
                "mpp_source": opened.mpp_source,
                "warnings": (*opened.warnings, *mask_warnings(mask, opened)),
                "dimensions": opened.dimensions,
                "rejected_patches": {str(m): n - grid.counts[m] for m, n in tissue_patches.items()},
                "tissue_share": mask.fraction,
                "patch_px": config.tiling.patch_px,
            }
        by_magnification = {
            m: MagnificationFeatures(features[m], grid.coords[m], grid.grid[m], level.mpp, level.patch_level0)
            for m, level in grid.magnifications.items()
        }
        return by_magnification, attributes


def _chosen(grid: PatchGrid, choose: Callable[[Bag], Bag]) -> PatchGrid:
    """The patches of the grid that ``choose`` keeps of a bag."""
    rows = {m: torch.arange(n).unsqueeze(1) for m, n in grid.counts.items()}
    few = choose(Bag(rows, grid={m: torch.from_numpy(places) for m, places in grid.grid.items()}))
    return grid.only({m: np.isin(np.arange(n), few.features[m].numpy()) for m, n in grid.counts.items()})
