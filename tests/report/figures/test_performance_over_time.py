from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from milsurv.config.run import Evaluation
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.metrics import METRICS
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import evaluation_times
from milsurv.report.figures.performance_over_time import performance_over_time
from tests.report.make_run import make_follow_up, predict

CURVES = [spec for spec in METRICS if "curve" in spec.shown]


@pytest.fixture(scope="module")
def metrics() -> Any:
    follow_up, settings = make_follow_up(60, 1), Evaluation(bootstraps=20)
    times = evaluation_times(follow_up["time"], follow_up["event"], settings)
    training = TrainingFollowUp(follow_up["time"].to_numpy(), follow_up["event"].to_numpy())
    return evaluate(predict(follow_up, [1], times.all), {0: training}, times, settings)


def figure_of(metrics: dict[str, Any], over_time: list[dict[str, Any]]) -> Figure:
    account = {**metrics["pooled"][0], "over_time": over_time}
    return performance_over_time(account, CURVES, metrics["times"], "months")


def test_the_curves_and_the_stated_times_are_drawn(metrics: dict[str, Any]) -> None:
    over_time = metrics["pooled"][0]["over_time"]
    above, below = figure_of(metrics, over_time).axes
    chance, auc, *stated = above.lines
    assert list(np.asarray(chance.get_ydata())) == [0.5, 0.5]
    np.testing.assert_array_equal(auc.get_xdata(), metrics["integration_times"])
    np.testing.assert_array_equal(auc.get_ydata(), [found["area_under_roc"]["value"] for found in over_time])
    assert len(stated) == 2 * len(metrics["times"])
    reference, model = below.lines[:2]
    for line, name in ((reference, "brier_score_kaplan_meier"), (model, "brier_score")):
        np.testing.assert_array_equal(line.get_ydata(), [found[name]["value"] for found in over_time])
    assert reference.get_linestyle() != model.get_linestyle()
    assert below.get_xlabel() == "Time (months)"
    assert (above.get_ylabel(), below.get_ylabel()) == ("Area under the ROC curve", "Brier score")


def test_what_cannot_be_computed_is_a_gap(metrics: dict[str, Any]) -> None:
    first, *others = metrics["pooled"][0]["over_time"]
    unknown = {**first, "area_under_roc": {"value": None, "reason": "no events by 1"}}
    above, _ = figure_of(metrics, [unknown, *others]).axes
    assert np.isnan(np.asarray(above.lines[1].get_ydata(), dtype=float)).tolist() == [True] + [False] * len(
        others
    )


def test_without_any_value_the_reason_is_drawn() -> None:
    nothing = {"value": None, "interval": None, "reason": "no case is followed beyond 9"}
    metrics = {
        f"{name}_at_9": nothing for name in ("area_under_roc", "brier_score", "brier_score_kaplan_meier")
    }
    figure = performance_over_time({"metrics": metrics}, CURVES, [9.0], "months")
    assert figure.axes == []
    assert "no case is followed beyond 9" in " ".join(figure.texts[0].get_text().split())
