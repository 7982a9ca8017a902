"""``milsurv run`` in processes of its own, killed twice on its way; the MLflow store is read back and compared.

The four folds train in turn: seed 1 fold 0 and 1, seed 2 fold 0 and 1. The first start knows of no store and is killed
after the first epoch of seed 1 fold 1. The second logs, and is killed at the second epoch of seed 2 fold 0. The third
ends well.
"""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

import milsurv

EPOCHS = 3
SETTINGS = [
    "cohort.cases=20",
    "splits.folds=2",
    "seeds=[1, 2]",
    "tiling.magnifications=[5]",
    "backbone.input_px=64",
    "aggregator.name=abmil",
    "aggregator.magnification=5",
    "aggregator.hidden_dim=8",
    f"training.epochs={EPOCHS}",
    "evaluation.times=[12, 900]",
    "evaluation.bootstraps=20",
    "executor.workers=1",
]
"""At 900 months nothing can be measured."""
STOPPER = Path(__file__).parent / "data" / "stopper.py"


def _start(base: Path, uri: str | None, stop_at: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milsurv", "run", "demo", "--quiet", "--plugin", str(STOPPER)]
    command += ["--workspace", str(base / "workspace")]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MILSURV_LOAD_PLUGINS": "mlflow"}
    if stop_at is not None:
        environment["STOP_AT"] = stop_at
    if uri is not None:
        environment["MLFLOW_TRACKING_URI"] = uri
    here = base / "here"
    here.mkdir(exist_ok=True)
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)


@dataclass
class Store:
    """All that an MLflow store says of the runs of experiment ``milsurv``, as it was when first read."""

    uri: str
    scratch: Path
    client: MlflowClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = MlflowClient(self.uri)

    @cached_property
    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("milsurv")
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id]))

    @cached_property
    def run(self) -> Run:
        (run,) = self.runs
        return run

    @cached_property
    def metrics(self) -> dict[str, list[tuple[int, float, int]]]:
        """Metric -> (step, value, timestamp) of everything ever logged, by step."""
        histories = {
            name: self.client.get_metric_history(self.run.info.run_id, name) for name in self.run.data.metrics
        }
        return {
            name: sorted((p.step, p.value, p.timestamp) for p in points) for name, points in histories.items()
        }

    @cached_property
    def artifacts(self) -> dict[str, bytes]:
        root = Path(self.client.download_artifacts(self.run.info.run_id, "", str(self.scratch)))
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    def read(self) -> Store:
        """Read everything now."""
        _ = self.metrics, self.artifacts
        return self


@dataclass
class Story:
    """What was left by each start of the run."""

    base: Path
    uri: str
    starts: list[subprocess.CompletedProcess[str]]
    written_unasked: list[Path]
    """In the folder where the first start ran."""
    killed: Store
    finished: Store

    @property
    def folder(self) -> Path:
        """The run's."""
        (folder,) = (self.base / "workspace" / "runs" / "demo").iterdir()
        return folder

    @property
    def histories(self) -> dict[str, list[dict[str, str]]]:
        """``seed_<s>/fold_<k>`` -> the rows of its ``history.csv``."""
        found = {}
        for path in self.folder.glob("seed_*/fold_*/history.csv"):
            with path.open(encoding="utf-8", newline="") as file:
                found[path.parent.relative_to(self.folder).as_posix()] = list(csv.DictReader(file))
        return found

    @property
    def results(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "metrics.json").read_text()))


def _read(base: Path, uri: str, name: str) -> Store:
    (base / name).mkdir()
    return Store(uri, base / name).read()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    base = tmp_path_factory.mktemp("story")
    (base / "store").mkdir()
    uri = f"sqlite:///{base / 'store' / 'mlflow.db'}"
    starts = [_start(base, None, stop_at="1 1 1")]
    written_unasked = list((base / "here").iterdir())
    starts.append(_start(base, uri, stop_at="2 0 2"))
    killed = _read(base, uri, "killed")
    starts.append(_start(base, uri))
    return Story(base, uri, starts, written_unasked, killed, _read(base, uri, "finished"))


def _expected_epochs(histories: Mapping[str, list[dict[str, str]]]) -> dict[str, list[tuple[int, float]]]:
    expected: dict[str, list[tuple[int, float]]] = {}
    for place, rows in histories.items():
        for row in rows:
            for name, text in row.items():
                if name not in ("epoch", "chosen") and text != "" and not math.isnan(float(text)):
                    expected.setdefault(f"{place}/{name}", []).append((int(row["epoch"]), float(text)))
    return expected


def test_the_starts_went_as_planned(story: Story) -> None:
    assert [start.returncode for start in story.starts] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert all("failed in milsurv_" not in start.stderr for start in story.starts)


def test_without_a_store_nothing_is_written(story: Story) -> None:
    assert story.written_unasked == []
    assert "mlflow" not in story.starts[0].stderr.lower()


def test_a_killed_run_stays_running_with_its_epochs(story: Story) -> None:
    assert story.killed.run.info.status == "RUNNING"
    train_loss = {
        name: points for name, points in story.killed.metrics.items() if name.endswith("train_loss")
    }
    assert set(train_loss) == {f"seed_{s}/fold_{k}/train_loss" for s, k in [(1, 0), (1, 1), (2, 0)]}
    assert [step for step, *_ in train_loss["seed_1/fold_0/train_loss"]] == [1, 2, 3]
    assert [step for step, *_ in train_loss["seed_1/fold_1/train_loss"]] == [1, 2, 3]
    assert [step for step, *_ in train_loss["seed_2/fold_0/train_loss"]][:1] == [1]


def test_the_run_that_goes_on_is_the_same_and_finished(story: Story) -> None:
    assert story.finished.run.info.run_id == story.killed.run.info.run_id
    assert story.finished.run.info.status == "FINISHED"


def test_every_epoch_of_every_fold_stands_once(story: Story) -> None:
    expected = _expected_epochs(story.histories)
    assert len(expected) == 4 * 3  # without the validation that there is none of
    assert all([epoch for epoch, _ in points] == [1, 2, 3] for points in expected.values())
    of_folds = {
        name: [(step, value) for step, value, _ in points]
        for name, points in story.finished.metrics.items()
        if "/fold_" in name
    }
    assert of_folds == expected


def test_pooled_metrics_and_summary_are_those_of_the_file(story: Story) -> None:
    expected: dict[str, float] = {}
    for pooled in story.results["pooled"]:
        for name, metric in pooled["metrics"].items():
            place = f"seed_{pooled['seed']}/pooled/{name}"
            if metric["value"] is not None:
                expected[place] = metric["value"]
            if metric["interval"] is not None:
                expected[f"{place}_lower"], expected[f"{place}_upper"] = metric["interval"]
    for name, summary in story.results["summary"].items():
        for what in ("mean", "standard_deviation"):
            if summary[what] is not None:
                expected[f"summary/{name}_{what}"] = summary[what]
    points = {name: points for name, points in story.finished.metrics.items() if "/fold_" not in name}
    assert {name: [(step, value) for step, value, _ in p] for name, p in points.items()} == {
        name: [(0, value)] for name, value in expected.items()
    }


def test_what_cannot_be_computed_is_no_number(story: Story) -> None:
    assert story.results["pooled"][0]["metrics"]["area_under_roc_at_900"]["value"] is None
    assert not [name for name in story.finished.metrics if "at_900" in name and "area_under_roc" in name]


def test_parameters_are_the_resolved_configuration(story: Story) -> None:
    config = yaml.safe_load((story.folder / "config.yaml").read_text())
    logged = {name: yaml.safe_load(text) for name, text in story.finished.run.data.params.items()}
    expected: dict[str, Any] = {}
    for section, value in config.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        expected |= {f"{section}.{key}" if key else section: setting for key, setting in inner}
    assert logged == expected


def test_artifacts_are_the_files_of_the_run(story: Story) -> None:
    names = [
        "config.yaml",
        "metrics.json",
        "report.html",
        *(f"{place}/history.csv" for place in story.histories),
    ]
    assert story.finished.artifacts == {name: (story.folder / name).read_bytes() for name in names}


def test_tags_say_what_was_run(story: Story) -> None:
    tags = story.finished.run.data.tags
    assert tags["milsurv.fingerprint"] == story.folder.name
    assert tags["milsurv.version"] == milsurv.__version__
    assert tags["milsurv.synthetic"] == "true"
    assert "synthetic" in tags["mlflow.note.content"]


def test_a_finished_run_that_is_started_again_changes_nothing(story: Story) -> None:
    assert _start(story.base, story.uri).returncode == 0
    again = _read(story.base, story.uri, "again")
    assert again.run.to_dictionary() == story.finished.run.to_dictionary()
    assert again.metrics == story.finished.metrics
    assert again.artifacts == story.finished.artifacts


def test_an_unusable_store_spoils_no_run(story: Story) -> None:
    report = (story.folder / "report.html").read_bytes()
    (story.folder / "report.html").unlink()
    (story.base / "file").touch()
    start = _start(story.base, f"sqlite:///{story.base}/file/mlflow.db")
    assert start.returncode == 0
    assert start.stderr.count("warning: plugin mlflow failed in milsurv_run_started") == 1
    assert (story.folder / "report.html").read_bytes() == report
