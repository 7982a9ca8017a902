"""extraction end to end, from JPEG slides to feature files, beside the network alone on patches that are there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.measure import Row
from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.executors.base import Context, Resources, Unit
from milsurv.executors.devices import Device, cores, cpu_has_bfloat16, find_device
from milsurv.executors.local import LocalConfig, LocalExecutor
from milsurv.features.embedding import load_encoder
from milsurv.features.extraction import Extraction
from milsurv.features.source import make_feature_file
from milsurv.plugin.registry import Registry
from milsurv.slides.grid import make_grid
from milsurv.slides.patches import read_grid
from tests.slides.make_slides import with_tissue, write_jpeg_slide


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    slides: int
    px: int
    """Side of level 0, at 0.25 µm/px."""
    input_px: int
    batch_size: int


CPU, GPU = Size(4, 6144, 224, 32), Size(8, 16384, 224, 256)
QUICK = Size(2, 2048, 32, 8)


def rows(quick: bool) -> Iterator[Row]:
    """Random weights: they are as fast as trained ones. Programs, weights and page cache are warm."""
    device = find_device("auto").name
    backbones = ("resnet50", "uni2_h") if device == "cuda" else ("resnet18",)
    size = QUICK if quick else GPU if device == "cuda" else CPU
    with tempfile.TemporaryDirectory() as folder:
        slides = [
            _write_slide(Path(folder) / f"s{number}.svs", size, number) for number in range(size.slides)
        ]
        for backbone in backbones:
            yield from _of_backbone(backbone, slides, size, device)


def _of_backbone(backbone: str, slides: list[Path], size: Size, device: str) -> Iterator[Row]:
    make = {"name": backbone, "weights": str(_random_weights(backbone, slides[0].parent))}
    if device == "cpu":
        make["input_px"] = str(size.input_px)
    narrow = "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"
    rates: dict[str, float] = {}
    for precision in dict.fromkeys((narrow, "float32")):
        settings = _settings(make, slides[0].parent, size, device, precision=precision)
        with LocalExecutor(LocalConfig(), device) as executor:
            workers = executor.workers
            rates |= _rates(executor, settings, slides, device, precision)
        what = f"{backbone} {precision} on {device}"
        yield Row(
            f"{what}: end to end, plain is the network alone", "/s", rates[precision], rates["alone"], True
        )
        yield Row(f"{what}: decoding alone, one thread", "/s", rates["decoding"], None, True)
        share = 100 * rates[precision] / (workers * rates["decoding"])
        yield Row(f"{what}: share of a worker's time spent decoding", "%", share, None)
    if narrow != "float32":
        yield Row(f"{backbone}: {narrow}, plain is float32", "/s", rates[narrow], rates["float32"], True)
    if device == "cpu":
        settings = _settings(make, slides[0].parent, size, device, precision=narrow, threads=cores())
        with LocalExecutor(LocalConfig(workers=1, threads=cores()), "cpu") as executor:
            default = _rates(executor, settings, slides, device, "default")["default"]
        yield Row(
            f"{backbone}: a worker of one thread per core, plain is one of torch's default threads",
            "/s",
            rates[narrow],
            default,
            True,
        )


def _rates(
    executor: LocalExecutor, settings: Extraction, slides: list[Path], device: str, name: str
) -> Mapping[str, float]:
    """Patches per second: end to end under ``name``, of the network ``alone``, of ``decoding`` alone."""
    resources = Resources(gpus=0 if device == "cpu" else 0.5)
    patches = sum(executor.run([Unit("count", decode, {"settings": settings, "slides": slides})], _ignore)[0])

    def timed(work: Callable[..., object], arguments: list[dict[str, Any]]) -> float:
        units = [
            Unit(str(index), work, values, resources=resources) for index, values in enumerate(arguments)
        ]
        started = time.perf_counter()
        executor.run(units, _ignore)
        return time.perf_counter() - started

    ready = [{"settings": settings, "patches": patches // executor.workers}] * executor.workers
    timed(embed_ready, [{"settings": settings, "patches": 1}] * executor.workers)
    alone = timed(embed_ready, ready)
    whole = timed(
        make_feature_file,
        [{"source": settings, "slide": SlideRef(f"{name}{path.stem}", path)} for path in slides],
    )
    decoding = timed(decode, [{"settings": settings, "slides": slides}])
    return {name: patches / whole, "alone": patches / alone, "decoding": patches / decoding}


def embed_ready(context: Context, settings: Extraction, patches: int) -> None:
    """Unit of work: the network's vectors of as many patches, which are on the device before."""
    encoder = load_encoder(context, settings.config, settings.precision)
    n, px = encoder.batch_size, settings.config.tiling.patch_px
    batch = torch.randint(0, 256, (n, px, px, 3), dtype=torch.uint8).to(context.device)
    done = 0
    while done < patches:
        vectors = encoder.vectors(batch[: patches - done])
        done += len(vectors)
        context.report({"event": "patches", "count": len(vectors)})
    vectors.cpu()


def decode(context: Context, settings: Extraction, slides: list[Path]) -> list[int]:
    """Unit of work: read the slides' patches and do nothing with them. Their numbers."""
    counts = []
    for path in slides:
        config, registry = settings.config, Registry()
        with registry.create("reader", config.reader).open(path, None) as opened:
            mask = registry.create("tissue", config.tissue).segment(opened)
            grid = make_grid(opened.dimensions, opened.mpp, mask, config.tiling)
            counts.append(sum(len(rows) for _, rows, _ in read_grid(opened, grid, config.tiling)))
        context.report({"event": "slide"})
    return counts


def _settings(
    backbone: dict[str, str], folder: Path, size: Size, device: str, precision: str, threads: int = 1
) -> Extraction:
    config = RunConfig.model_validate(
        {
            "name": "bench",
            "workspace": folder / "workspace",
            "device": device,
            "cohort": {"table": folder / "none.csv", "slides": folder},
            "backbone": {"name": backbone["name"], **{k: v for k, v in backbone.items() if k != "name"}},
            "extraction": {"batch_size": size.batch_size, "precision": precision},
            "executor": {"threads": threads},
        }
    )
    return Extraction.of(config, Registry(), Device(device))


def _random_weights(name: str, folder: Path) -> Path:
    plugin = Registry().load("backbone", name)
    file = folder / f"{name}.safetensors"
    if not file.exists():
        save_file(plugin(plugin.Config()).build().state_dict(), file)
    return file


def _write_slide(path: Path, size: Size, seed: int) -> Path:
    """Three quarters of tissue with some grain, which compresses about as tissue does."""
    side = size.px // 8
    blotches = with_tissue(side, side, [(0, 0, side, side * 3 // 4)], seed=seed)
    smooth = cv2.resize(blotches, (size.px, size.px), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(seed).integers(0, 12, (size.px, size.px, 1), np.uint8)
    return write_jpeg_slide(path, cv2.add(smooth, grain.repeat(3, 2)), mpp=0.25, downsamples=(1, 4, 16))  # type: ignore[arg-type]


def _ignore(*_: object) -> None:
    pass
