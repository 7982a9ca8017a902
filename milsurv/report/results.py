"""What the report tells of, read from a finished run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from milsurv.errors import MilsurvError
from milsurv.plugin.versions import EARLIER
from milsurv.storage.checksums import read_checked, read_json
from milsurv.storage.run_files import PREDICTIONS
from milsurv.training.results import read_predictions

IDS = {"case_id": str, "slide_id": str}
NEEDED = (
    "config.yaml",
    "environment.json",
    "plugins.json",
    "cohort.json",
    "metrics.json",
    "slides.csv",
    PREDICTIONS,
)


@dataclass(frozen=True)
class RunResults:
    """The files of a run's folder."""

    config: str
    """``config.yaml`` as it stands."""
    environment: dict[str, Any]
    plugins: list[dict[str, Any]]
    cohort: dict[str, Any]
    metrics: dict[str, Any]
    splits: pd.DataFrame
    """Empty when the folder has no ``splits.csv``."""
    slides: pd.DataFrame
    predictions: pd.DataFrame
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
        splits = folder / "splits.csv"
        histories = [_history(path) for path in _histories(folder)]
        return cls(
            config=read_checked(folder / "config.yaml"),
            environment=read_json(folder / "environment.json"),
            plugins=read_json(folder / "plugins.json"),
            cohort=read_json(folder / "cohort.json"),
            metrics=read_json(folder / "metrics.json"),
            splits=_table(splits) if splits.is_file() else pd.DataFrame(columns=["case_id", "fold", "role"]),
            slides=_table(folder / "slides.csv"),
            predictions=read_predictions(folder / PREDICTIONS),
            history=pd.concat(histories, ignore_index=True) if histories else pd.DataFrame(),
        )

    @property
    def environments(self) -> list[dict[str, Any]]:
        """What the last start of the run had, then what earlier ones had that differs, the latest first."""
        return [self.environment, *reversed(self.environment.get(EARLIER, []))]

    def versions(self, package: str) -> str:
        """The versions of a package that took part; nothing when there is none."""
        found = [environment["packages"].get(package) for environment in self.environments]
        return with_earlier(version for version in found if version is not None)

    @property
    def external(self) -> bool:
        """Whether a model made elsewhere was applied to this cohort, and nothing was trained on it."""
        return bool(self.cohort.get("external", False))

    @property
    def reference_cases(self) -> str:
        """Whose follow-up gives censoring weights and the Kaplan-Meier reference, in words."""
        return "the reported cases" if self.external else "the training cases"

    @property
    def optimistic(self) -> bool:
        """Whether the reported cases chose the epoch, so that every number says so."""
        return bool(self.cohort.get("selection") == "reported_fold")

    @property
    def first_seed(self) -> dict[str, Any]:
        """What is measured of the first seed, pooled over folds: what the figures show."""
        pooled: dict[str, Any] = self.metrics["pooled"][0]
        return pooled

    @property
    def first_predictions(self) -> pd.DataFrame:
        """The predictions of the first seed."""
        return self.predictions.query(f"seed == {self.first_seed['seed']}")

    @property
    def folds(self) -> list[int]:
        """The folds that are reported."""
        return sorted({int(fold["fold"]) for fold in self.metrics["folds"]})

    @property
    def left_out(self) -> pd.DataFrame:
        """The slides that could not be used, with their reasons."""
        return self.slides[self.slides["status"] != "used"]

    @property
    def used(self) -> pd.DataFrame:
        """The slides that have features."""
        return self.slides[self.slides["status"] == "used"]


def with_earlier(values: Iterable[str]) -> str:
    """What the last start of a run had, with what earlier ones had that differs, the latest first."""
    last, *earlier = dict.fromkeys(values) or [""]
    return f"{last} (earlier {', '.join(earlier)})" if earlier else last


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(StringIO(read_checked(path)), dtype=IDS)


def _histories(folder: Path) -> list[Path]:
    return sorted(folder.glob("seed_*/fold_*/history.csv"), key=_seed_and_fold)


def _history(path: Path) -> pd.DataFrame:
    seed, fold = _seed_and_fold(path)
    return _table(path).assign(seed=seed, fold=fold)


def _seed_and_fold(path: Path) -> tuple[int, int]:
    fold, seed = path.parent.name, path.parent.parent.name
    return int(seed.removeprefix("seed_")), int(fold.removeprefix("fold_"))
