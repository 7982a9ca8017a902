"""A milsurv run in an MLflow store."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from milsurv import __version__
from milsurv_mlflow.values import parameters, results

DEFAULT_EXPERIMENT = "milsurv"
FINGERPRINT = "milsurv.fingerprint"
FOLDER = "milsurv.folder"
SYNTHETIC_NOTE = "This cohort is synthetic: the numbers say nothing about patients."


class TrackedRun:
    """The MLflow run of a milsurv run's folder. What stands in it already is not logged a second time.

    All calls raise ``MlflowException``, or what the store's driver raises, when the store cannot be used.
    """

    def __init__(self, client: MlflowClient, run: Run):
        self._client = client
        self._run = run
        self._id: str = run.info.run_id
        self._steps: dict[str, set[int]] = {}
        """Metric -> the steps at which it is logged, of the metrics that were asked for."""

    @classmethod
    def begin(cls, uri: str, config: Mapping[str, Any], folder: Path) -> TrackedRun:
        """Find the MLflow run of ``folder`` in the store at ``uri``, or create it, and log what is known so far.

        That is the configuration, and the folds that are finished: of these, epochs may be missing when an
        earlier start was stopped between an epoch and its logging.
        """
        client = MlflowClient(uri)
        experiment = _experiment_id(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT)
        tracked = cls(
            client, _find(client, experiment, folder) or _create(client, experiment, config, folder)
        )
        tracked._log_parameters(parameters(config))
        client.log_artifact(tracked._id, str(folder / "config.yaml"))
        if not tracked._finished:
            for predictions in sorted(folder.glob("seed_*/fold_*/predictions.csv")):
                tracked.log_fold(predictions.parent)
        return tracked

    @property
    def _finished(self) -> bool:
        return bool(self._run.info.status == "FINISHED")

    def log_epochs(self, fold: Path, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Log ``rows`` (epoch -> numbers) of the fold in folder ``fold``, but for NaN and what is logged."""
        named = [
            (f"{_place(fold)}/{name}", value, epoch)
            for epoch, row in rows.items()
            for name, value in row.items()
            if math.isfinite(value)
        ]
        self._send([point for point in named if point[2] not in self._logged_steps(point[0])])

    def log_fold(self, fold: Path) -> None:
        """Log the history of a finished fold: as a file, and the epochs that are not logged."""
        with (fold / "history.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.log_epochs(fold, {int(row["epoch"]): _numbers(row) for row in rows})
        self._client.log_artifact(self._id, str(fold / "history.csv"), _place(fold))

    def finish(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Log the results that are new or changed, ``metrics.json`` and the report, and mark the run finished."""
        before = self._run.data.metrics
        self._send(
            [(name, value, 0) for name, value in results(metrics).items() if before.get(name) != value]
        )
        for file in ("metrics.json", "report.html"):
            self._client.log_artifact(self._id, str(folder / file))
        if not self._finished:
            self._client.set_terminated(self._id)

    def _log_parameters(self, wanted: Mapping[str, str]) -> None:
        """MLflow's parameters never change: those of a run that goes on say what it began with."""
        missing = [Param(key, value) for key, value in wanted.items() if key not in self._run.data.params]
        self._client.log_batch(self._id, params=missing)

    def _logged_steps(self, metric: str) -> set[int]:
        if metric not in self._steps:
            logged = metric in self._run.data.metrics
            history = self._client.get_metric_history(self._id, metric) if logged else []
            self._steps[metric] = {point.step for point in history}
        return self._steps[metric]

    def _send(self, points: Sequence[tuple[str, float, int]]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[Metric(name, value, now, step) for name, value, step in points]
        )
        for name, _, step in points:
            self._logged_steps(name).add(step)


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
            # another run created it meanwhile
    return str(experiment.experiment_id)


def _find(client: MlflowClient, experiment: str, folder: Path) -> Run | None:
    """The oldest MLflow run of ``folder`` that is not deleted."""
    runs = client.search_runs(
        [experiment], f"tags.`{FINGERPRINT}` = '{folder.name}'", order_by=["attributes.start_time ASC"]
    )
    return next((run for run in runs if run.data.tags.get(FOLDER) == str(folder.resolve())), None)


def _create(client: MlflowClient, experiment: str, config: Mapping[str, Any], folder: Path) -> Run:
    synthetic = config["cohort"]["source"] == "synthetic"
    tags = {
        FINGERPRINT: folder.name,
        FOLDER: str(folder.resolve()),
        "milsurv.version": __version__,
        "milsurv.synthetic": str(synthetic).lower(),
    }
    if synthetic:
        tags["mlflow.note.content"] = SYNTHETIC_NOTE
    return client.create_run(experiment, tags=tags, run_name=f"{config['name']} {folder.name}")


def _place(fold: Path) -> str:
    """``seed_<s>/fold_<k>``, in the run's folder as in MLflow."""
    return f"{fold.parent.name}/{fold.name}"


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """A row of ``history.csv`` as the hook after an epoch tells it; an empty field is NaN."""
    return {
        name: float(text or "nan")
        for name, text in row.items()
        if name != "epoch" and not name.endswith("chosen")
    }
