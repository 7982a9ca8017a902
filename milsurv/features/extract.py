"""From a slide to its feature file: one unit of work, run again only when its file is not whole or not its own."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from milsurv._version import __version__
from milsurv.backbones.base import Backbone, Precision
from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.errors import TABLE_ADVICE, MilsurvError, SlideError, SlideFaultError, size, slide_reason
from milsurv.executors.base import Context, Event, Resources, Unit
from milsurv.executors.devices import Device
from milsurv.features.encoder import Encoder, choose_precision
from milsurv.features.room import lacking_room
from milsurv.features.store import MagnificationFeatures, read_attributes, write_features
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import Registry, get_registry
from milsurv.plugin.sources import framework_fingerprint
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.opening import find_tissue, open_slide, slide_faults
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import Slide, slide_identity, whole_hash
from milsurv.slides.tissue import doubts
from milsurv.storage.atomic import fingerprint

EXTRACTION_CODE = (
    "milsurv.features.encoder",
    "milsurv.slides.grid",
    "milsurv.slides.opening",
    "milsurv.slides.patches",
)
"""What of milsurv itself decides features, beside its plugins."""
REPORT_SECONDS = 0.5
"""Seconds between two reports of a slide's progress."""
TELLING = ("slide", "table_mpp", "tissue_source", "patches", "mpp", "mpp_source", "doubts")
"""Attributes that tell what a feature file was made from and what came of it."""


@dataclass(frozen=True)
class ExtractionSettings:
    """All that decides what a feature file holds, and how it is computed."""

    verb: ClassVar = "extracting"
    likeness: ClassVar[tuple[Callable[[Path], Hashable], ...]] = (
        lambda slide: slide.stat().st_size,
        lambda slide: slide_identity(slide)["quick_hash"],
        whole_hash,
    )
    """What two slide files of one content share."""
    config: RunConfig
    weights_id: str
    origins: dict[tuple[str, str], str]
    """Kind and name of the plugins at work -> the fingerprint of their source."""
    transform: dict[str, Any]
    """What the backbone does to patches, see ``Backbone.transform``."""
    precision: Precision
    """In which the network computes on the run's device."""
    dim: int
    """Width of an embedding."""
    trained_at: tuple[int, ...]
    """The backbone's, see there."""
    mpp_advice: str = TABLE_ADVICE
    """What to do about a slide's µm/px, for its reason."""

    @classmethod
    def of(cls, config: RunConfig, registry: Registry, device: Device) -> ExtractionSettings:
        """For extraction on ``device``. Raises WeightsError when a weights file that the config names is not there."""
        section = config.extracting_backbone
        backbone: Backbone = registry.create("backbone", section)
        names = {"reader": config.reader.name, "tissue": config.tissue.name, "backbone": section.name}
        origins = {(kind, name): registry.origin(kind, name) for kind, name in names.items()}
        precision = choose_precision(config.extraction.precision, backbone.precision, device)
        return cls(
            config,
            backbone.weights_id(),
            origins,
            backbone.transform,
            precision,
            backbone.dim,
            backbone.trained_at,
        )

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
                "transform": self.transform,
            },
            "precision": self.precision,
            "dtype": config.extraction.dtype,
            "origins": {
                **{kind: origin for (kind, _), origin in self.origins.items()},
                "milsurv": framework_fingerprint(*EXTRACTION_CODE),
            },
        }

    @cached_property
    def folder(self) -> Path:
        """Where feature files of these settings stand."""
        name = self.config.extracting_backbone.name
        return self.config.workspace / "features" / f"{name}-{fingerprint(self.content)}"

    def path(self, slide_id: str) -> Path:
        return self.folder / f"{slide_id}.h5"

    def done_before(self, slide: SlideRef) -> ExtractedSlide | None:
        """The slide as it was extracted before, or None when that is still to do."""
        return None if slide.path is None else extracted(self, slide.slide_id, slide.path, slide.mpp)

    def unit(self, slide: SlideRef, device: Device) -> Unit:
        """The unit of work that extracts a slide. Two share a GPU: one has patches while the other opens or writes."""
        arguments: dict[str, Any] = {
            "settings": self,
            "slide_id": slide.slide_id,
            "slide": slide.path,
            "mpp": slide.mpp,
        }
        resources = Resources(gpus=0.5 if device.kind == "cuda" else 0)
        return Unit(slide.slide_id, extract_slide, arguments, self.path(slide.slide_id), resources)

    def warnings(self, slides: Sequence[SlideRef], registry: Registry) -> Iterator[str]:
        """What should be known before ``slides`` are extracted: magnifications new to the backbone, want of room."""
        config, name = self.config, self.config.extracting_backbone.name
        new = [m for m in config.tiling.magnifications if self.trained_at and m not in self.trained_at]
        if new:
            asked, trained = (" and ".join(f"{m}x" for m in some) for some in (new, self.trained_at))
            yield f"backbone {name} was trained at {trained}, and is asked for patches at {asked} too"
        if slides and (lack := lacking_room(config, registry, self.dim, slides)):
            needed, free = map(size, lack)
            yield (
                f"the features of {len(slides)} slides take about {needed}, and {free} are free in "
                f"{config.workspace}: make room, or choose another --workspace; what is finished stays if it gets full"
            )


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
    fault: str | None = None
    """Kind and place of an exception that nothing foresaw, if that is the reason."""
    doubts: tuple[str, ...] = ()
    """What is odd about the slide, though it is used."""
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
        attributes = read_attributes(path, TELLING)
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
        doubts=tuple(attributes["doubts"]),
        made_from=[attributes["slide"]["quick_hash"], attributes["tissue_source"]],
    )


def extract_slide(
    context: Context, settings: ExtractionSettings, slide_id: str, slide: Path, mpp: float | None
) -> ExtractedSlide:
    """Unit of work: read a slide's patches, embed them, write its feature file, unless it is there already.

    A slide that cannot be used gives a reason in place of a file.
    """
    get_registry(settings.config.plugins).require_origins(settings.origins)
    event: Event = {"event": "slide", "slide": slide_id}
    try:
        with slide_faults():
            outcome = extracted(settings, slide_id, slide, mpp)
        outcome = outcome or _extract(context, settings, slide_id, slide, mpp)
        event |= {"reason": None, "bytes": settings.path(slide_id).stat().st_size}
    except SlideError as error:
        outcome = left_out(slide_id, error, settings.mpp_advice)
        event |= {"reason": outcome.reason, "bytes": 0, **traceback_of(error)}
    context.report(event)
    return outcome


def left_out(slide_id: str, error: SlideError, mpp_advice: str) -> ExtractedSlide:
    """What becomes of a slide that cannot be used."""
    fault = error.fault if isinstance(error, SlideFaultError) else None
    return ExtractedSlide(slide_id, {}, reason=slide_reason(error, mpp_advice), fault=fault)


def traceback_of(error: SlideError) -> dict[str, str]:
    """The traceback, for an event, of an exception that nothing foresaw; nothing of what was foreseen."""
    if not isinstance(error, SlideFaultError):
        return {}
    return {"traceback": "".join(traceback.format_exception(error.__cause__))}


def _extract(
    context: Context, settings: ExtractionSettings, slide_id: str, slide: Path, mpp: float | None
) -> ExtractedSlide:
    config = settings.config
    registry = get_registry(config.plugins)
    with slide_faults():
        identity = slide_identity(slide)
    with open_slide(registry, config.reader, slide, mpp) as opened:
        with slide_faults():
            source = _tissue_source(config, slide)
        mask = find_tissue(registry, config.tissue, opened)
        with slide_faults():
            grid = make_grid(opened.dimensions, opened.mpp, mask, config.tiling)
        tissue_patches = grid.counts
        grid, features = _embed(context, opened, grid, settings)
        if slide_identity(slide) != identity:
            raise SlideError("changed while it was read; run again when it is copied as a whole")
        attributes = {
            "slide": identity,
            "table_mpp": mpp,
            "tissue_source": source,
            "read_by": f"{opened.read_by}: {opened.read_by_reason}",
            "mpp": opened.mpp,
            "mpp_source": opened.mpp_source,
            "doubts": (*opened.doubts, *doubts(mask, opened)),
            "dimensions": opened.dimensions,
            "patches": {str(m): count for m, count in grid.counts.items()},
            "rejected_patches": {str(m): count - grid.counts[m] for m, count in tissue_patches.items()},
            "tissue_share": mask.fraction,
            "patch_px": config.tiling.patch_px,
            "settings": settings.content,
            "milsurv_version": __version__,
        }
    by_magnification = {
        m: MagnificationFeatures(
            features[m], grid.coords[m], grid.grid[m], magnification.mpp, magnification.patch_level0
        )
        for m, magnification in grid.magnifications.items()
    }
    write_features(settings.path(slide_id), by_magnification, attributes)
    return _outcome(slide_id, attributes)


def load_encoder(context: Context, settings: ExtractionSettings) -> Encoder:
    """The backbone with its network, loaded once by each worker, which closes it."""
    config, section = settings.config, settings.config.extracting_backbone

    def load() -> Encoder:
        registry = get_registry(config.plugins)
        return Encoder(
            registry.create("backbone", section),
            registry.describe("backbone", section.name),
            torch.device(context.device),
            settings.precision,
            config.extraction.batch_size,
            compiled=config.extraction.compile,
            threads=context.placement.config.threads,
        )

    key = ("encoder", config.plugins, section.model_dump_json(), settings.precision, config.extraction)
    return context.shared.get(key, load)


def _decoding_threads(context: Context, config: RunConfig) -> int:
    """Threads that decode a slide's patches: one on a CPU, where each core has a worker, else the unit's cores."""
    if config.extraction.decoding_threads != "auto":
        return config.extraction.decoding_threads
    return 1 if context.device == "cpu" else context.cpus


def _embed(
    context: Context, opened: Slide, grid: PatchGrid, settings: ExtractionSettings
) -> tuple[PatchGrid, dict[int, NDArray[Any]]]:
    """The grid of the patches that are kept, and their features: magnification -> ``(n, dim)`` in its order."""
    config, encoder = settings.config, load_encoder(context, settings)
    threads, stop = _decoding_threads(context, config), context.raise_if_stopped
    unreported, reported_at = 0, time.monotonic()
    with encoder.slide(str(opened.path), dict(grid.coords), config.extraction.dtype, stop) as slide:
        for magnification, rows, patches in read_grid(opened, grid, config.tiling, threads):
            context.raise_if_stopped()
            encoder.put(slide, magnification, rows, patches)
            unreported += len(rows)
            if time.monotonic() - reported_at > REPORT_SECONDS:
                context.report({"event": "patches", "count": unreported})
                unreported, reported_at = 0, time.monotonic()
    context.report({"event": "patches", "count": unreported})
    if smaller := encoder.smaller_batches():
        context.report({"event": "smaller batches", "batch_size": smaller, "device": context.device})
    finest = slide.embedded[max(slide.embedded)]
    if not finest.any():
        raise SlideError(
            f"no patch left: all {len(finest)} are rejected by tiling.min_sharpness, "
            "tiling.max_white or tiling.max_black"
        )
    return grid.only(slide.embedded), {m: slide.features[m][kept] for m, kept in slide.embedded.items()}
