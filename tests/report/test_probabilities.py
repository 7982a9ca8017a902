from __future__ import annotations

from pathlib import Path

from milsurv.report.html import write_report
from milsurv.report.probabilities import SHOWN, probability_warnings, read_probabilities
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import write_checked
from tests.report.make_run import make_config, make_follow_up, make_probabilities, make_run

WORSE = {"worse_than_kaplan_meier": True, "integrated_brier_score": 0.31}


def test_probabilities_that_are_better_than_kaplan_meier_are_no_reason_to_warn() -> None:
    assert probability_warnings([make_probabilities(1, fold) for fold in range(3)]) == []
    assert probability_warnings([]) == []


def test_the_trainings_that_are_worse_are_counted_and_named() -> None:
    found = [make_probabilities(1, fold) | (WORSE if fold < SHOWN + 1 else {}) for fold in range(9)]
    (warning,) = probability_warnings(found)
    assert warning.startswith(
        f"in {SHOWN + 1} of 9 trainings, the selected epoch predicts survival worse than"
    )
    assert "seed 1, fold 0, epoch 8: 0.310 against 0.200; " in warning
    assert "and more" in warning
    assert "reported survival is recalibrated" in warning
    (raw,) = probability_warnings([found[0] | {"slope": None}])
    assert "set training.recalibrate: true" in raw


def test_the_report_warns(tmp_path: Path) -> None:
    config, folder = make_config(tmp_path), tmp_path / "run"
    make_run(folder, config, make_follow_up(40, 2))
    write_checked(
        folder / "seed_1" / "fold_1" / "probabilities.json", json_text(make_probabilities(1, 1) | WORSE)
    )
    assert [one["fold"] for one in read_probabilities(folder)] == [0, 1]
    page = write_report(folder, config, []).read_text()
    assert "in 1 of 2 trainings, the selected epoch predicts survival worse than one Kaplan-Meier" in page
