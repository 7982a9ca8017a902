"""The content of a finished run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from milsurv.errors import MilsurvError
from milsurv.evaluation.metrics import HARRELL, MetricInfo, heading, read_definitions
from milsurv.evaluation.schema import BaselineComparison, PooledAccount, RunMetrics
from milsurv.plugin.versions import EARLIER
from milsurv.report.probabilities import probability_warnings, read_probabilities
from milsurv.storage.checksums import read_checked, read_json
from milsurv.storage.run_files import (
    COHORT,
    CONFIG,
    ENVIRONMENT,
    HISTORY,
    METRICS,
    PLUGINS,
    PREDICTIONS,
    SLIDES,
    SPLITS,
)
from milsurv.training.results import read_predictions

IDS = {"case_id": str, "slide_id": str}
NEEDED = (CONFIG, ENVIRONMENT, PLUGINS, COHORT, METRICS, SLIDES, PREDICTIONS)


@dataclass(frozen=True)
class RunResults:
    """The files of a run's folder."""

    config: str
    """The text of ``config.yaml``."""
    environment: dict[str, Any]
    plugins: list[dict[str, Any]]
    cohort: dict[str, Any]
    metrics: RunMetrics
    splits: pd.DataFrame
    """Empty when the folder has no ``splits.csv``."""
    slides: pd.DataFrame
    predictions: pd.DataFrame
    probabilities: list[dict[str, Any]]
    """The ``probabilities.json`` of every fold under every seed; empty for models that were trained elsewhere."""
    history: pd.DataFrame
    """The ``history.csv`` of every fold under every seed, with columns ``seed`` and ``fold``; empty without any."""

    @classmethod
    def read(cls, folder: Path) -> RunResults:
        """Raises MilsurvError when the run is not finished.

        An external validation has neither ``splits.csv`` nor a history of training.
        """
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            raise MilsurvError(
                f"{folder}: no finished run is here (no {missing[0]}); run its milsurv command again to finish it"
            )
        splits = folder / SPLITS
        histories = [_history(path) for path in _histories(folder)]
        return cls(
            config=read_checked(folder / CONFIG),
            environment=read_json(folder / ENVIRONMENT),
            plugins=read_json(folder / PLUGINS),
            cohort=read_json(folder / COHORT),
            metrics=read_json(folder / METRICS),
            splits=_table(splits) if splits.is_file() else pd.DataFrame(columns=["case_id", "fold", "role"]),
            slides=_table(folder / SLIDES),
            predictions=read_predictions(folder / PREDICTIONS),
            probabilities=read_probabilities(folder),
            history=pd.concat(histories, ignore_index=True) if histories else pd.DataFrame(),
        )

    @property
    def environments(self) -> list[dict[str, Any]]:
        """That of the run's last start, then those of earlier starts that differ, the latest first."""
        return [self.environment, *reversed(self.environment.get(EARLIER, []))]

    def versions(self, package: str) -> str:
        """The versions of a package that the run used; empty when there are none."""
        found = [environment["packages"].get(package) for environment in self.environments]
        return with_earlier(version for version in found if version is not None)

    @property
    def external(self) -> bool:
        """Whether this is the external validation of a model that was trained on another cohort."""
        return bool(self.cohort.get("external", False))

    @property
    def reference_cases(self) -> str:
        """The cases to which censoring weights and the Kaplan-Meier reference are fitted, in words."""
        return "the test cases" if self.external else "the training cases"

    @property
    def optimistic(self) -> bool:
        """Whether the epoch was selected on the test cases; then every table and figure is marked as optimistic."""
        return bool(self.cohort.get("selection") == "reported_fold")

    @cached_property
    def definitions(self) -> dict[str, MetricInfo]:
        """Name of each metric -> how it is presented."""
        return read_definitions(self.metrics)

    @property
    def curves(self) -> list[MetricInfo]:
        """The metrics that are drawn over time."""
        return [info for info in self.definitions.values() if "curve" in info.shown and info.over == "times"]

    @property
    def primary(self) -> MetricInfo:
        """The metric of the headline."""
        return self.definitions[HARRELL.name]

    def heading(self, name: str) -> str:
        """The heading of a metric of ``metrics.json``."""
        return heading(self.definitions, name, self.cohort["time_unit"])

    @property
    def accounts(self) -> list[PooledAccount]:
        """The metrics of each seed, pooled over folds, and of the ensemble of several seeds."""
        ensemble = self.metrics["ensemble"]
        return [*self.metrics["pooled"], *([ensemble] if ensemble else [])]

    @property
    def baselines(self) -> list[BaselineComparison]:
        """The comparisons with baselines; empty for an external validation, and for runs of older versions."""
        return self.metrics.get("baselines", [])

    @property
    def over_folds(self) -> str:
        """The end of a caption: that folds are pooled, when there are several."""
        return ", pooled over folds" if len(self.folds) > 1 else ""

    @property
    def first_seed(self) -> PooledAccount:
        """The metrics of the first seed, pooled over folds, which the figures show."""
        return self.metrics["pooled"][0]

    @property
    def first_predictions(self) -> pd.DataFrame:
        """The predictions of the first seed."""
        return self.predictions.query(f"seed == {self.first_seed['seed']}")

    @property
    def folds(self) -> list[int]:
        """The folds that were tested."""
        return sorted({int(fold["fold"]) for fold in self.metrics["folds"]})

    @property
    def excluded(self) -> pd.DataFrame:
        """The excluded slides, with the reasons."""
        return self.slides[self.slides["status"] != "used"]

    @property
    def used(self) -> pd.DataFrame:
        """The slides that have features."""
        return self.slides[self.slides["status"] == "used"]

    @property
    def warnings(self) -> list[str]:
        """Warnings about the cohort, the slides and the probabilities of the models."""
        return [*self.cohort["warnings"], *probability_warnings(self.probabilities)]

    @property
    def slopes(self) -> list[float]:
        """Slopes of the recalibrated models, ascending."""
        return sorted(one["slope"] for one in self.probabilities if one["slope"] is not None)

    @property
    def patches(self) -> dict[str, int]:
        """Magnification (``20x``) -> patches of all used slides."""
        columns = [column for column in self.used.columns if column.startswith("patches_")]
        return {column.removeprefix("patches_"): int(self.used[column].sum()) for column in columns}

    @property
    def resolution_sources(self) -> dict[str, int]:
        """Source of the resolution -> number of used slides."""
        return dict(self.used["mpp_source"].value_counts(sort=False).sort_index())

    @property
    def milsurv_versions(self) -> list[str]:
        """The versions of milsurv and Python of each of `environments`."""
        return [f"version {e['milsurv']} on Python {e['python']}" for e in self.environments]


def with_earlier(values: Iterable[str]) -> str:
    """The value of a run's last start, with those of earlier starts that differ, the latest first."""
    last, *earlier = dict.fromkeys(values) or [""]
    return f"{last} (earlier {', '.join(earlier)})" if earlier else last


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(StringIO(read_checked(path)), dtype=IDS)


def _histories(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"seed_*/fold_*/{HISTORY}"), key=_seed_and_fold)


def _history(path: Path) -> pd.DataFrame:
    seed, fold = _seed_and_fold(path)
    return _table(path).assign(seed=seed, fold=fold)


def _seed_and_fold(path: Path) -> tuple[int, int]:
    fold, seed = path.parent.name, path.parent.parent.name
    return int(seed.removeprefix("seed_")), int(fold.removeprefix("fold_"))
