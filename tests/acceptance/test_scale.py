"""Ten thousand slides whose features are there: a check, and a run up to its first step, in 20 s and 2 GB."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from milsurv._version import __version__
from milsurv.config.loading import load_config
from milsurv.executors.devices import Device
from milsurv.features.extraction import Extraction
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.slides.reader import slide_identity
from tests.conftest import small_config

pytestmark = pytest.mark.acceptance
SLIDES, CASES = 10_000, 8_000
GIGABYTES = 2
DIM = 8


@dataclass(frozen=True)
class Measured:
    """What a command took."""

    seconds: float
    """Until it ended, or was interrupted."""
    processor_seconds: float
    gigabytes: float
    output: str


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose slides are no slides: to open one is to leave it out; their features are whole."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "slides").mkdir()
    rng = np.random.default_rng(1)
    case = np.sort(np.concatenate([np.arange(CASES), rng.choice(CASES, SLIDES - CASES, replace=False)]))
    table = pd.DataFrame(
        {"case_id": [f"case-{c}" for c in case], "slide_id": [f"slide-{s}" for s in range(SLIDES)]}
    )
    table["time"], table["event"] = (
        rng.exponential(20, CASES).round(2)[case] + 0.1,
        (case % 5 < 2).astype(int),
    )
    table.to_csv(folder / "follow_up.csv", index=False)
    sections = {
        "aggregator": {"name": "abmil", "hidden_dim": 8, "attention_dim": 4},
        "training": {"epochs": 1, "batch_cases": 4},
    }
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump({**small_config(folder / "workspace", folder), **sections}))
    _write_slides_and_features(path, folder / "slides", table["slide_id"], rng)
    return path


def _write_slides_and_features(
    path: Path, slides: Path, slide_ids: pd.Series, rng: np.random.Generator
) -> None:
    config, registry = load_config(str(path), [])
    settings = Extraction.of(config, registry, Device("cpu"))
    attributes: dict[str, object] = {
        "table_mpp": None,
        "warnings": [],
        "tissue_source": None,
        "read_by": "openslide: made for this",
        "dimensions": (256, 256),
        "rejected_patches": {"20": 0, "10": 0, "5": 0},
        "tissue_share": 1.0,
        "patch_px": 64,
        "milsurv_version": __version__,
        "mpp": 0.5,
        "mpp_source": "properties",
        "patches": {"20": 16, "10": 4, "5": 1},
        "settings": settings.content,
    }
    by_magnification = {}
    for magnification, side in ((20, 4), (10, 2), (5, 1)):
        grid = np.argwhere(np.ones((side, side))).astype(np.int32)
        features = rng.normal(size=(side * side, DIM)).astype(np.float16)
        patch = 1280 // magnification
        by_magnification[magnification] = MagnificationFeatures(
            features, grid.astype(np.int64) * patch, grid, 0.5, float(patch)
        )
    content = rng.bytes(2000)
    for number, slide_id in enumerate(slide_ids):
        slide = slides / f"{slide_id}.svs"
        slide.write_bytes(content + bytes(number))
        write_features(
            settings.path(slide_id), by_magnification, {**attributes, "slide": slide_identity(slide)}
        )


def _measure(*arguments: object, folder: Path, until: Callable[[], bool] = lambda: False) -> Measured:
    """``milsurv`` until its end, or until it is interrupted because ``until`` is true."""
    command = [sys.executable, "-m", "milsurv", *map(str, arguments)]
    started = time.monotonic()
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        seconds, usage = 0.0, None
        while usage is None:
            if not seconds and until():
                seconds = time.monotonic() - started
                process.send_signal(signal.SIGINT)
            time.sleep(0.05)
            done, _, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if done else None
    return Measured(
        seconds or time.monotonic() - started,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024 / 1e9,
        (folder / "output.txt").read_text(),
    )


def _require_small(measured: Measured) -> None:
    """Time is shown alone: what it is depends on the machine and on what else it does."""
    print(
        f"{measured.seconds:.1f} s, {measured.processor_seconds:.1f} of a processor, {measured.gigabytes:.2f} GB"
    )
    assert measured.gigabytes < GIGABYTES


def test_check_opens_no_slide_that_has_features(config: Path) -> None:
    measured = _measure("check", config, folder=config.parent)
    assert f"{CASES} cases" in measured.output
    assert f"{SLIDES} slides open, or have features already" in measured.output
    assert "excluded" not in measured.output
    _require_small(measured)


def test_a_run_soon_makes_its_first_step(config: Path) -> None:
    runs = config.parent / "workspace" / "runs"
    measured = _measure(
        "run", config, "--fold", 0, folder=config.parent, until=lambda: any(runs.rglob("state.safetensors"))
    )
    assert "excluded" not in measured.output
    (cohort,) = runs.rglob("cohort.json")
    assert json.loads(cohort.read_text())["slides"] == SLIDES
    _require_small(measured)
