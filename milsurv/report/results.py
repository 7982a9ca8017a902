"""What the report tells of, read from a finished run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

IDS = {"case_id": str, "slide_id": str}


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
    slides: pd.DataFrame
    history: pd.DataFrame
    """The ``history.csv`` of every fold under every seed, with columns ``seed`` and ``fold``."""

    @classmethod
    def read(cls, folder: Path) -> RunResults:
        """Raises ``FileNotFoundError`` when the run is not finished."""
        return cls(
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
            environment=_json(folder / "environment.json"),
            plugins=_json(folder / "plugins.json"),
            cohort=_json(folder / "cohort.json"),
            metrics=_json(folder / "metrics.json"),
            splits=pd.read_csv(folder / "splits.csv", dtype=IDS),
            slides=pd.read_csv(folder / "slides.csv", dtype=IDS),
            history=pd.concat([_history(path) for path in _histories(folder)], ignore_index=True),
        )

    @property
    def optimistic(self) -> bool:
        """Whether the reported cases chose the epoch, so that every number says so."""
        return bool(self.cohort["selection"] == "reported_fold")

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


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _histories(folder: Path) -> list[Path]:
    return sorted(folder.glob("seed_*/fold_*/history.csv"), key=_seed_and_fold)


def _history(path: Path) -> pd.DataFrame:
    seed, fold = _seed_and_fold(path)
    return pd.read_csv(path).assign(seed=seed, fold=fold)


def _seed_and_fold(path: Path) -> tuple[int, int]:
    fold, seed = path.parent.name, path.parent.parent.name
    return int(seed.removeprefix("seed_")), int(fold.removeprefix("fold_"))
