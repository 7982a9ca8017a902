from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from milsurv.explain.style import HIGH, LOW
from milsurv.report.figures.risk_distribution import risk_distribution
from tests.report.make_run import make_follow_up, predict


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def predictions() -> pd.DataFrame:
    return predict(make_follow_up(80, 2), [1], [])


def test_bars_count_the_cases_on_each_side_of_the_cut() -> None:
    table = predictions()
    with_event, censored = risk_distribution(table).axes
    for axes, event in ((with_event, 1), (censored, 0)):
        risk = table.loc[table["event"] == event, "standardized_risk"]
        counted = {
            colour: sum(bar.get_height() for bar in bars(axes) if to_hex(bar.get_facecolor()) == colour)
            for colour in (HIGH, LOW)
        }
        assert counted == {HIGH: (risk > 0).sum(), LOW: (risk <= 0).sum()}
    assert with_event.get_title(loc="left") == f"Cases with the event ({(table['event'] == 1).sum()})"
    assert "Standardised risk" in censored.get_xlabel()
    assert with_event.get_ylabel() == "Cases"


def test_a_case_at_the_cut_is_at_low_risk() -> None:
    table = pd.DataFrame(
        {"case_id": ["a", "b", "c"], "fold": 0, "event": 1, "standardized_risk": [0.0, 1.0, -1.0]}
    )
    low = [bar for bar in bars(risk_distribution(table).axes[0]) if to_hex(bar.get_facecolor()) == LOW]
    assert sum(bar.get_height() for bar in low) == 2


def test_risks_that_do_not_differ_or_are_not_finite_say_so() -> None:
    for value, reason in ((0.5, "all 80 cases have the same risk"), (np.nan, "no case has a finite risk")):
        figure = risk_distribution(predictions().assign(standardized_risk=value))
        assert figure.axes == []
        assert reason in " ".join(figure.texts[0].get_text().split())


def test_a_case_of_several_folds_counts_once() -> None:
    table = predictions()
    twice = pd.concat([table, table.assign(fold=table["fold"] + 2)])
    heights = [
        [bar.get_height() for axes in risk_distribution(t).axes for bar in bars(axes)] for t in (table, twice)
    ]
    assert heights[0] == heights[1]
