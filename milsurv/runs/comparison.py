"""Finished runs side by side: the same cases in the same folds, or a line that says which differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from milsurv.cohort.ids import shorten
from milsurv.errors import MilsurvError
from milsurv.evaluation.compare import compare
from milsurv.evaluation.ensemble import ensemble
from milsurv.runs.folder import find_run
from milsurv.storage.checksums import read_json
from milsurv.storage.run_files import COHORT, PREDICTIONS
from milsurv.training.results import read_predictions

KEYS = ["case_id", "fold"]


def compare_runs(paths: Sequence[Path], bootstraps: int, seed: int) -> dict[str, Any]:
    """What :func:`milsurv.evaluation.compare.compare` says of the runs.

    Several seeds of a run are taken as their ensemble; ``selection`` says of each how its epoch was chosen. Raises
    MilsurvError when a run is not finished, or when two differ in their cases, folds or follow-up.
    """
    folders = [find_run(path) for path in paths]
    names = _names(folders)
    predictions = {name: _predictions(folder) for name, folder in zip(names, folders, strict=True)}
    first = names[0]
    for other in names[1:]:
        _require_same(first, predictions[first], other, predictions[other])
    found = compare(predictions, bootstraps, seed)
    for run, folder in zip(found["runs"], folders, strict=True):
        cohort = read_json(folder / COHORT)
        run["selection"] = cohort.get("selection", "external")
        run["folder"] = str(folder)
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """The runs' own names; with their fingerprints where two have the same."""
    names = [folder.parent.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    if len(set(names)) < len(names):
        raise MilsurvError(f"{shorten(names)}: a run is named twice; name different ones")
    return names


def _predictions(folder: Path) -> pd.DataFrame:
    predictions = read_predictions(folder / PREDICTIONS)
    if predictions["seed"].nunique() == 1:
        return predictions
    if "standardized_risk" not in predictions:
        raise MilsurvError(
            f"{folder}: an older milsurv made this run, without what puts several seeds together; run it again"
        )
    return ensemble(predictions)


def _require_same(first: str, one: pd.DataFrame, second: str, other: pd.DataFrame) -> None:
    joined = one.merge(other, on=KEYS, how="outer", suffixes=("", "_other"), indicator=True)
    alone = joined[joined["_merge"] != "both"]
    if len(alone):
        only = [
            f"{len(rows)} are in {name} alone ({shorten(_in_words(rows))})"
            for side, name in (("left_only", first), ("right_only", second))
            if len(rows := alone[alone["_merge"] == side])
        ]
        raise MilsurvError(
            f"{first} and {second} do not report the same cases in the same folds: {'; '.join(only)}; runs with the "
            "same cohort and splits can be compared"
        )
    different = joined[(joined["time"] != joined["time_other"]) | (joined["event"] != joined["event_other"])]
    if len(different):
        raise MilsurvError(
            f"{first} and {second} have different follow-up of {len(different)} cases: "
            f"{shorten(different['case_id'].tolist())}; runs with the same cohort can be compared"
        )


def _in_words(rows: pd.DataFrame) -> list[str]:
    return [f"{row.case_id} in fold {row.fold}" for row in rows.itertuples()]
