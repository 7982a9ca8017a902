from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes

from milsurv.evaluation.risk_groups import risk_groups
from milsurv.explain.style import HIGH, LOW
from milsurv.report.figures.kaplan_meier import kaplan_meier
from tests.report.make_run import make_follow_up, predict


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    return predict(make_follow_up(50, 2), [1], [])


@pytest.fixture(scope="module")
def groups(predictions: pd.DataFrame) -> Any:
    return risk_groups(predictions)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_kaplan_meier_draws_the_estimate(predictions: pd.DataFrame, groups: dict[str, Any]) -> None:
    [axes] = kaplan_meier(groups, "months", "OS").axes
    for line, colour, high in zip(axes.lines, (HIGH, LOW), (1, 0), strict=True):
        rows = predictions[predictions["high_risk"] == high]
        oracle = KaplanMeierFitter().fit(rows["time"], rows["event"])
        times = np.asarray(line.get_xdata(), dtype=float)
        assert line.get_color() == colour
        assert line.get_drawstyle() == "steps-post"
        expected = oracle.survival_function_at_times(times).to_numpy()
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected, atol=1e-5)
        assert times[-1] == rows["time"].max()
    assert len(axes.collections) == 2


def test_kaplan_meier_has_units_names_and_numbers_at_risk(groups: dict[str, Any]) -> None:
    [axes] = kaplan_meier(groups, "days", "PFI").axes
    assert axes.get_xlabel() == "Time (days)"
    assert axes.get_ylabel() == "Survival probability (PFI)"
    assert axes.get_title(loc="right") == f"log-rank p = {groups['log_rank_p_value']['value']:.3f}"
    shown = texts(axes)
    assert {"high risk", "low risk", "At risk", "high", "low"} <= set(shown)
    counts = [text for text in shown if text.isdigit()]
    assert counts == [str(n) for name in ("high", "low") for n in groups[name]["at_risk"]]
    assert len(axes.get_xticks()) == len(groups["at_risk_times"])


def test_labels_of_curves_that_end_together_stand_apart(groups: dict[str, Any]) -> None:
    same = {**groups, "low": groups["high"]}
    [axes] = kaplan_meier(same, "months", "OS").axes
    heights = [
        text.get_position()[1]
        for text in axes.texts
        if text.get_text().endswith(" risk") and text.get_text() != "At risk"
    ]
    assert abs(heights[0] - heights[1]) == pytest.approx(0.08)


def test_an_empty_group_has_no_curve(predictions: pd.DataFrame) -> None:
    groups = risk_groups(predictions.assign(high_risk=0))
    [axes] = kaplan_meier(groups, "months", "OS").axes
    assert len(axes.lines) == 1
    assert axes.get_title(loc="right") == "log-rank p = –"


def test_names_with_dollars_are_no_formulas(groups: dict[str, Any]) -> None:
    figure = kaplan_meier(groups, "$\\frac{1}$", "O$S$")
    figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == "Time ($\\frac{1}$)"


def test_without_a_finite_risk_the_reason_is_drawn(predictions: pd.DataFrame) -> None:
    figure = kaplan_meier(risk_groups(predictions.assign(risk=np.nan)), "months", "OS")
    assert figure.axes == []
    assert "no case has a finite risk" in " ".join(figure.texts[0].get_text().split())
