from __future__ import annotations

import pandas as pd
import pytest

from milsurv.config.run import Evaluation
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.over_time import SCORES, over_time
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import EvaluationTimes
from tests.report.make_run import make_follow_up, predict

TIMES = (5.0, 20.0, 60.0)


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    return predict(make_follow_up(60, 2), [1], TIMES)


@pytest.fixture(scope="module")
def training() -> dict[int, TrainingFollowUp]:
    follow_up = make_follow_up(90, 1)
    of_all = TrainingFollowUp(follow_up["time"].to_numpy(), follow_up["event"].to_numpy())
    return {0: of_all, 1: of_all}


def test_the_curves_go_through_the_stated_times(
    predictions: pd.DataFrame, training: dict[int, TrainingFollowUp]
) -> None:
    times = EvaluationTimes(TIMES, TIMES)
    [pooled] = evaluate(predictions, training, times, Evaluation(bootstraps=10))["pooled"]
    assert [found["time"] for found in pooled["over_time"]] == list(TIMES)
    for found in pooled["over_time"]:
        for name in SCORES:
            stated = pooled["metrics"][f"{name}_at_{found['time']:g}"]
            assert found[name] == {"value": pytest.approx(stated["value"], abs=1e-12), "reason": None}


def test_what_cannot_be_computed_has_its_reason(
    predictions: pd.DataFrame, training: dict[int, TrainingFollowUp]
) -> None:
    censored = predictions.assign(event=0)
    for found in over_time(censored, training, TIMES, Evaluation()):
        assert all(found[name] == {"value": None, "reason": "no events"} for name in SCORES)


def test_without_times_there_is_no_curve(
    predictions: pd.DataFrame, training: dict[int, TrainingFollowUp]
) -> None:
    assert over_time(predictions, training, (), Evaluation()) == []
