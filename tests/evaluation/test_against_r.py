"""What R's survival says of the same cases (tests/data/parity/r_survival.R made the numbers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from milsurv.config.run import Evaluation
from milsurv.evaluation import risk_groups as tested_risk_groups
from milsurv.evaluation.clinical import added_by_image
from milsurv.evaluation.concordance import harrell_c_index, uno_c_index
from milsurv.evaluation.strata import TrainingFollowUp, strata_of_seed

compare_risk_groups: Any = tested_risk_groups.compare_risk_groups
risk_groups: Any = tested_risk_groups.risk_groups
"""Typed loosely, to index what may be None."""

PARITY = Path(__file__).parents[1] / "data" / "parity"
R = json.loads((PARITY / "r_survival.json").read_text())
CASES = pd.read_csv(PARITY / "r_survival.csv").assign(seed=1)


def test_harrells_c_within_folds() -> None:
    nobody = TrainingFollowUp(np.array([1.0]), np.array([1]))
    strata = strata_of_seed(CASES, dict.fromkeys((0, 1, 2), nobody), (), Evaluation(bootstraps=0))
    assert harrell_c_index(strata)[0] == pytest.approx(R["harrell_c_index"][0], rel=1e-12)


def test_unos_c_truncated() -> None:
    untied = CASES.assign(time=CASES["time"] + (CASES.index + 1) / 1000)
    first = untied[untied["fold"] == 0]
    follow_up = TrainingFollowUp(first["time"].to_numpy(), first["event"].to_numpy())
    strata = strata_of_seed(first, {0: follow_up}, (), Evaluation(bootstraps=0, truncation=12))
    assert uno_c_index(strata)[0] == pytest.approx(R["uno_c_index_of_fold_0_before_12"][0], rel=1e-5)


def test_log_rank_and_hazard_ratio_stratified_by_fold() -> None:
    found = compare_risk_groups(CASES)
    assert found["log_rank_p_value"]["value"] == pytest.approx(R["log_rank_p_value_by_fold"][0], rel=1e-9)
    ratio = found["hazard_ratio"]
    assert [ratio["value"], *ratio["interval"]] == pytest.approx(R["hazard_ratio_by_fold"], rel=1e-5)


def test_curves_and_medians_of_the_risk_groups() -> None:
    groups = risk_groups(CASES)
    assert groups["log_rank_p_value"]["value"] == pytest.approx(R["log_rank_p_value_pooled"][0], rel=1e-9)
    for number, name in enumerate(("low", "high")):
        curve, rows = groups[name]["kaplan_meier"], slice(3 * number, 3 * number + 3)
        at = np.searchsorted(curve["time"], [2, 5, 10], side="right") - 1
        for ours, theirs in (("survival", "survival"), ("lower", "lower"), ("upper", "upper")):
            expected = R[f"{theirs}_at_2_5_10_low_then_high"][rows]
            assert np.array(curve[ours])[at] == pytest.approx(expected, abs=1e-5)
        assert groups[name]["median_survival"]["value"] == R["median_low_then_high"][number]


def test_the_image_beside_a_clinical_variable() -> None:
    found: Any = added_by_image(CASES, CASES.set_index("case_id")[["age"]])
    statistic = R["likelihood_ratio_statistic"][0]
    assert found["likelihood_ratio_p_value"]["value"] == pytest.approx(chi2.sf(statistic, 1), rel=1e-5)
    ratio = found["hazard_ratio"]
    assert [ratio["value"], *ratio["interval"]] == pytest.approx(R["hazard_ratio_of_image"], rel=1e-5)
