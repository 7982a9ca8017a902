from __future__ import annotations

from typing import Any

import numpy as np

from milsurv.report.figures.calibration import calibration


def group(predicted: float, observed: float | None, interval: list[float] | None = None) -> dict[str, Any]:
    return {
        "cases": 20,
        "events": 5,
        "predicted": predicted,
        "observed": {"value": observed, "interval": interval, "reason": None},
    }


def at(time: float, *groups: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"time": time, "slope": {}, "groups": list(groups), "groups_reason": reason}


def test_each_time_has_a_panel_with_its_groups_and_the_diagonal() -> None:
    found = [at(12.5, group(0.3, 0.4, [0.2, 0.6]), group(0.8, 1.0)), at(30, group(0.1, 0.0))]
    first, second = calibration(found, "days").axes
    assert [first.get_title(loc="left"), second.get_title(loc="left")] == ["12.5 days", "30 days"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("Predicted survival", "Observed survival")
    drawn = [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in first.lines
    ]
    diagonal, interval, *dots = drawn
    assert diagonal == ([0, 1], [0, 1])
    assert interval == ([0.3, 0.3], [0.2, 0.6])
    assert dots == [([0.3], [0.4]), ([0.8], [1.0])]
    assert len(first.texts) == 0


def test_a_group_that_is_not_followed_is_counted_and_not_drawn() -> None:
    axes = calibration([at(12, group(0.3, None), group(0.8, 0.7))], "months").axes[0]
    assert [list(np.asarray(line.get_xdata())) for line in axes.lines] == [[0, 1], [0.8]]
    assert " ".join(axes.texts[0].get_text().split()) == "1 of 2 groups not followed so far"


def test_a_time_without_groups_says_why() -> None:
    axes = calibration([at(12, reason="too few cases: 8")], "months").axes[0]
    assert axes.texts[0].get_text() == "too few cases: 8"
    assert len(axes.lines) == 1


def test_without_times_the_reason_is_drawn() -> None:
    figure = calibration([], "months")
    assert figure.axes == []
    assert "no events" in " ".join(figure.texts[0].get_text().split())
