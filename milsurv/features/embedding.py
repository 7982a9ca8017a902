"""Embedding the patches of a slide with the backbone that a worker shares between its slides."""

from __future__ import annotations

import time
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from milsurv.backbones.base import Precision
from milsurv.config.run import RunConfig
from milsurv.errors import SlideError
from milsurv.executors.base import Context
from milsurv.executors.devices import Device
from milsurv.features.encoder import Encoder
from milsurv.features.events import BatchesHalved, PatchesEmbedded
from milsurv.plugin.registry import get_registry
from milsurv.slides.grid import PatchGrid
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import Slide

REPORT_SECONDS = 0.5
"""Seconds between two reports of a slide's progress."""


def choose_precision(wanted: Literal["auto"] | Precision, allowed: Precision, device: Device) -> Precision:
    """Dtype of the network's computation; ``auto``: the narrowest that it allows and that is fast on the device."""
    if wanted != "auto":
        return wanted
    if allowed == "float32":
        return "float32"
    if device.kind == "cuda" and allowed == "float16":
        return "float16"
    return "bfloat16" if device.has_bfloat16 else "float32"


def load_encoder(context: Context, config: RunConfig, precision: Precision) -> Encoder:
    """The backbone with its network, loaded once per worker and closed by it. Raises WeightsError."""
    section = config.extracting_backbone

    def load() -> Encoder:
        registry = get_registry(config.plugins)
        return Encoder(
            registry.create("backbone", section),
            registry.describe("backbone", section.name),
            torch.device(context.device),
            precision,
            config.extraction,
            context.placement.config.threads,
        )

    key = ("encoder", config.plugins, section.model_dump_json(), precision, config.extraction)
    return context.shared.get(key, load)


def embed(
    context: Context, opened: Slide, grid: PatchGrid, config: RunConfig, precision: Precision
) -> tuple[PatchGrid, dict[int, NDArray[Any]]]:
    """The grid of the patches that are kept, and their features: magnification -> ``(n, dim)`` in its order.

    Raises SlideError when no patch is kept.
    """
    encoder = load_encoder(context, config, precision)
    threads, stop = _decoding_threads(context, config), context.raise_if_stopped
    unreported, reported_at = 0, time.monotonic()
    with encoder.slide(str(opened.path), dict(grid.coords), config.extraction.dtype, stop) as slide:
        for magnification, rows, patches in read_grid(opened, grid, config.tiling, threads):
            context.raise_if_stopped()
            encoder.put(slide, magnification, rows, patches)
            unreported += len(rows)
            if time.monotonic() - reported_at > REPORT_SECONDS:
                context.report(PatchesEmbedded(event="patches", count=unreported))
                unreported, reported_at = 0, time.monotonic()
    context.report(PatchesEmbedded(event="patches", count=unreported))
    if smaller := encoder.smaller_batches():
        context.report(BatchesHalved(event="smaller batches", batch_size=smaller, device=context.device))
    finest = slide.embedded[max(slide.embedded)]
    if not finest.any():
        raise SlideError(
            f"no patch left: all {len(finest)} are rejected by tiling.min_sharpness, "
            "tiling.max_white or tiling.max_black"
        )
    return grid.only(slide.embedded), {m: slide.features[m][kept] for m, kept in slide.embedded.items()}


def _decoding_threads(context: Context, config: RunConfig) -> int:
    """Threads that decode a slide's patches: one on a CPU, where each core has a worker, else the unit's cores."""
    if config.extraction.decoding_threads != "auto":
        return config.extraction.decoding_threads
    return 1 if context.device == "cpu" else context.cpus
