"""Logs runs to the MLflow store that MLFLOW_TRACKING_URI names; silent while it names none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milsurv import hookimpl

if TYPE_CHECKING:
    from milsurv_mlflow.tracker import TrackedRun

milsurv_api = 1

_tracked: dict[Path, TrackedRun] = {}
"""By the run's folder."""


@hookimpl
def milsurv_run_started(config: dict[str, Any], folder: Path) -> None:
    _tracked.pop(folder, None)
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        from milsurv_mlflow.tracker import TrackedRun  # MLflow takes seconds to import

        _tracked[folder] = TrackedRun.begin(uri, config, folder)


@hookimpl
def milsurv_epoch_finished(epoch: int, values: dict[str, float], folder: Path) -> None:
    if run := _tracked.get(folder.parents[1]):
        run.log_epochs(folder, {epoch: values})


@hookimpl
def milsurv_fold_finished(folder: Path) -> None:
    if run := _tracked.get(folder.parents[1]):
        run.log_fold(folder)


@hookimpl
def milsurv_run_finished(folder: Path, metrics: dict[str, Any]) -> None:
    if run := _tracked.pop(folder, None):
        run.finish(folder, metrics)
