"""The seam of executors: one that a plugin file brings, and what every executor inherits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from milsurv.config.loading import load_config
from milsurv.errors import MilsurvError
from milsurv.executors.base import WORKER_DIED, Context, Event, Executor, ExecutorConfig, Resources, Unit
from milsurv.plugin.registry import get_registry
from milsurv.runs.pipeline import RunResult
from tests.conftest import DATA, WriteConfig
from tests.sessions import run

FRESH_INTERPRETER = DATA / "plugins" / "fresh_interpreter.py"


def _fresh_interpreter() -> Executor:
    executor: Executor = get_registry((FRESH_INTERPRETER,)).load("executor", "fresh_interpreter")(
        ExecutorConfig(), "cpu"
    )
    return executor


def die_at_first(context: Context, folder: Path, attempts: int) -> int:
    with (folder / "attempts").open("a") as file:
        file.write("x")
    if (folder / "attempts").stat().st_size < attempts:
        os._exit(7)
    context.report({"event": "alive"})
    return os.getpid()


def test_an_executor_of_a_plugin_tries_a_unit_again_whose_worker_died(tmp_path: Path) -> None:
    events: list[Event] = []
    unit = Unit("one", die_at_first, {"folder": tmp_path, "attempts": 3})
    (process,) = _fresh_interpreter().run([unit], lambda _unit, event: events.append(event))
    assert process != os.getpid()
    assert [event["event"] for event in events] == [WORKER_DIED, WORKER_DIED, "alive"]
    assert [event.get("attempt") for event in events] == [1, 2, None]


def test_an_executor_of_a_plugin_gives_up_after_three_deaths(tmp_path: Path) -> None:
    unit = Unit("one", die_at_first, {"folder": tmp_path, "attempts": 99})
    with pytest.raises(MilsurvError, match=r"^one: its worker process died 3 times \(exit status 7\)"):
        _fresh_interpreter().run([unit], lambda *_: None)


def _results(result: RunResult) -> dict[str, bytes]:
    """Features, models and predictions: what does not tell when, where and by whom it was made."""
    workspace = result.folder.parents[2]
    names = {"model.safetensors", "predictions.csv", "history.csv", "training_risks.csv", "metrics.json"}
    files = [
        *(path for path in result.folder.rglob("*") if path.name in names),
        *(workspace / "features").rglob("*.h5"),
    ]
    return {str(path.relative_to(workspace)): path.read_bytes() for path in files}


def test_a_run_has_the_same_bytes_with_another_executor(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(small_cohort / "follow_up.csv").iloc[:8]
    table.to_csv(tmp_path / "follow_up.csv", index=False)
    cohort: dict[str, Any] = {
        "table": str(tmp_path / "follow_up.csv"),
        "slides": str(small_cohort / "slides"),
    }
    training = {"epochs": 2, "batch_cases": 4, "selection": "last_epoch"}
    config = str(write_config(cohort=cohort, splits={"folds": 2}, training=training, loss={"name": "cox"}))
    found = []
    for name in ("local", "fresh_interpreter"):
        overrides = [f"executor.name={name}", f"workspace={tmp_path / name}"]
        found.append(_results(run(*load_config(config, overrides, [FRESH_INTERPRETER]))))
    assert found[0] == found[1]
    assert sum(name.endswith(".h5") for name in found[0]) == 8
    assert sum(name.endswith("model.safetensors") for name in found[0]) == 2


def test_an_executors_settings_are_its_own(write_config: WriteConfig) -> None:
    config = str(write_config())
    with pytest.raises(
        MilsurvError, match=r"executor.workers: unknown key; allowed are: cache, cache_gb, threads"
    ):
        load_config(config, ["executor.name=fresh_interpreter", "executor.workers=3"], [FRESH_INTERPRETER])
    loaded, registry = load_config(
        config, ["executor.name=fresh_interpreter", "executor.threads=2"], [FRESH_INTERPRETER]
    )
    executor = registry.create("executor", loaded.executor, "cpu")
    assert executor.placement().config == ExecutorConfig(threads=2)


def test_a_share_of_a_gpu_lets_units_run_side_by_side() -> None:
    shares = {0: 1, 1: 1, 2: 1, 0.5: 2, 0.25: 4}
    assert {gpus: Resources(gpus=gpus).units_at_once for gpus in shares} == shares
