"""What a run says about the probabilities of its models: whether they are worse than Kaplan-Meier, recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milsurv.storage.checksums import read_json
from milsurv.storage.run_files import PROBABILITIES

SHOWN = 5
"""Number of trainings that a warning names."""


def read_probabilities(run: Path) -> list[dict[str, Any]]:
    """The ``probabilities.json`` of every trained fold of a run, sorted by seed and fold."""
    found = [read_json(path) for path in run.glob(f"seed_*/fold_*/{PROBABILITIES}")]
    return sorted(found, key=lambda one: (one["seed"], one["fold"]))


def probability_warnings(found: Sequence[dict[str, Any]]) -> list[str]:
    """A warning if the own probabilities of selected epochs are worse than Kaplan-Meier's; else none."""
    worse = [one for one in found if one["worse_than_kaplan_meier"]]
    if not worse:
        return []
    named = "; ".join(
        f"seed {one['seed']}, fold {one['fold']}, epoch {one['epoch']}: {one['integrated_brier_score']:.3f} against "
        f"{one['integrated_brier_score_kaplan_meier']:.3f}"
        for one in worse[:SHOWN]
    )
    recalibrated = all(one["slope"] is not None for one in worse)
    return [
        f"in {len(worse)} of {len(found)} trainings, the selected epoch predicts survival worse than one Kaplan-Meier "
        "curve for all cases (integrated Brier score on the cases that selected it, before recalibration: "
        f"{named}{' and more' if len(worse) > SHOWN else ''}); "
        + (
            "reported survival is recalibrated, but risks of such an epoch may be worth little"
            if recalibrated
            else "do not use its probabilities: set training.recalibrate: true, or select by the loss"
        )
    ]
