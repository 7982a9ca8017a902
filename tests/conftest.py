"""A small cohort of real slide files, and a configuration that runs it in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import pytest
import yaml

from milsurv.synthetic.pyramid import write_pyramid
from tests.command import start_forkserver
from tests.slides.make_slides import with_tissue

pytest_plugins = ["pytester"]
DATA = Path(__file__).parent / "data"
COLOUR_BACKBONE = DATA / "plugins" / "colour_backbone.py"
SLIDE_PX = 1024
CASES = 15

WriteConfig = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def forkserver() -> None:
    """What commands and workers are forked from."""
    start_forkserver()


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``follow_up.csv`` and ``slides/``: 15 cases, 17 slides, darker tissue with earlier events.

    Do not change it: copy what is to be changed.
    """
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "slides" / "nested").mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = []
    for number in range(CASES):
        risk = rng.normal()
        time, event = float(np.round(rng.exponential(30 / np.exp(risk)) + 0.5, 2)), int(number % 3 != 0)
        for slide in range(2 if number in (2, 7) else 1):
            slide_id = f"P{number:02d}-{slide + 1}"
            picture = with_tissue(SLIDE_PX, SLIDE_PX, [(100, 60, 850, 900)], seed=10 * number + slide)
            picture = (picture * (1 - 0.1 * np.tanh(risk))).clip(0, 255).astype(np.uint8)
            write_pyramid(picture, folder / "slides" / ("nested" if number % 2 else ".") / f"{slide_id}.svs")
            rows.append({"case_id": f"P{number:02d}", "slide_id": slide_id, "time": time, "event": event})
    pd.DataFrame(rows).to_csv(folder / "follow_up.csv", index=False)
    return folder


def small_config(workspace: Path, cohort: Path) -> dict[str, Any]:
    """A configuration that runs a cohort such as the small one in seconds."""
    return {
        "workspace": str(workspace),
        "plugins": [str(COLOUR_BACKBONE)],
        "cohort": {"table": str(cohort / "follow_up.csv"), "slides": str(cohort / "slides")},
        "splits": {"folds": 3},
        "tiling": {"patch_px": 64},
        "backbone": {"name": "colour"},
        "aggregator": {"name": "crossfusion", "embed_dim": 8, "num_heads": 2},
        "loss": {"name": "nll", "bins": 2},
        "training": {"epochs": 3, "batch_cases": 4, "learning_rate": 0.01, "standardize": True},
        "evaluation": {"bootstraps": 50},
        "executor": {"workers": 1},
    }


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> Path:
    """The folder of a finished run of the small cohort, three folds under two seeds. Do not change it."""
    from milsurv.config.loading import load_config
    from tests.sessions import run

    folder = tmp_path_factory.mktemp("small_run")
    (folder / "small.yaml").write_text(yaml.safe_dump(small_config(folder / "workspace", small_cohort)))
    config, registry = load_config(str(folder / "small.yaml"), ["seeds=[1, 2]"])
    return run(config, registry).folder


@pytest.fixture
def write_config(tmp_path: Path, small_cohort: Path) -> WriteConfig:
    """Writes a YAML for the small cohort; keyword arguments replace whole sections, None removes one."""

    def write(name: str = "small", **sections: Any) -> Path:
        config = small_config(tmp_path / "workspace", small_cohort) | sections
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
        return path

    return write
