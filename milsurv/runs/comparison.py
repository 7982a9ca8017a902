"""Compares finished runs that were tested on the same cases in the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from milsurv.cohort.ids import shorten
from milsurv.errors import MilsurvError
from milsurv.evaluation.compare import compare
from milsurv.evaluation.ensemble import ensemble
from milsurv.evaluation.metrics import METRICS, MetricSpec
from milsurv.evaluation.schema import Comparison
from milsurv.runs.folder import find_run
from milsurv.storage.checksums import read_json
from milsurv.storage.run_files import COHORT, PREDICTIONS
from milsurv.training.results import read_predictions

KEYS = ["case_id", "fold"]


def compare_runs(
    paths: Sequence[Path], bootstraps: int, seed: int, metrics: Sequence[MetricSpec] = METRICS
) -> Comparison:
    """Compare finished runs with :func:`milsurv.evaluation.compare.compare`.

    Several seeds of a run are compared as their ensemble; ``selection`` is how a run's epoch was chosen. Raises
    MilsurvError when a run is not finished, or when two differ in their cases, folds or follow-up.
    """
    folders = [find_run(path) for path in paths]
    names = _names(folders)
    predictions = {name: _predictions(folder) for name, folder in zip(names, folders, strict=True)}
    first = names[0]
    for other in names[1:]:
        _require_same(first, predictions[first], other, predictions[other])
    found = compare(predictions, bootstraps, seed, metrics)
    for run, folder in zip(found["runs"], folders, strict=True):
        cohort = read_json(folder / COHORT)
        run["selection"] = cohort.get("selection", "external")
        run["folder"] = str(folder)
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """The runs' names, with their fingerprints when two have the same name."""
    names = [folder.parent.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    if len(set(names)) < len(names):
        raise MilsurvError(f"{shorten(names)}: the same run is given twice; give different runs")
    return names


def _predictions(folder: Path) -> pd.DataFrame:
    predictions = read_predictions(folder / PREDICTIONS)
    if predictions["seed"].nunique() == 1:
        return predictions
    if "standardized_risk" not in predictions:
        raise MilsurvError(
            f"{folder}: the predictions of this run lack standardized_risk, which the ensemble of its seeds "
            "requires; run it again with this version of milsurv"
        )
    return ensemble(predictions)


def _require_same(first: str, one: pd.DataFrame, second: str, other: pd.DataFrame) -> None:
    joined = one.merge(other, on=KEYS, how="outer", suffixes=("", "_other"), indicator=True)
    alone = joined[joined["_merge"] != "both"]
    if len(alone):
        only = [
            f"{len(rows)} are only in {name} ({shorten(_in_words(rows))})"
            for side, name in (("left_only", first), ("right_only", second))
            if len(rows := alone[alone["_merge"] == side])
        ]
        raise MilsurvError(
            f"{first} and {second} were not tested on the same cases in the same folds: {'; '.join(only)}; compare "
            "runs with the same cohort and splits"
        )
    different = joined[(joined["time"] != joined["time_other"]) | (joined["event"] != joined["event_other"])]
    if len(different):
        raise MilsurvError(
            f"{first} and {second} have different follow-up of {len(different)} cases: "
            f"{shorten(different['case_id'].tolist())}; compare runs with the same cohort"
        )


def _in_words(rows: pd.DataFrame) -> list[str]:
    return [f"{row.case_id} in fold {row.fold}" for row in rows.itertuples()]
