from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from milsurv.report.figures.survival_curves import MAX_GREY, QUANTILES, chosen, survival_curves
from milsurv.report.svg import svg_inline
from tests.report.make_run import make_follow_up, predict

TIMES = [20.0, 5.0, 10.0]


def predictions(cases: int) -> pd.DataFrame:
    return predict(make_follow_up(cases, 2), [1], TIMES)


def test_five_cases_across_the_range_of_risk_are_in_colour() -> None:
    table = predictions(50)
    [axes] = survival_curves(table, "days", "PFI").axes
    ranked = table.sort_values("standardized_risk")
    for line, (quantile, (colour, _)) in zip(axes.lines, QUANTILES.items(), strict=True):
        case = ranked.iloc[int(quantile * 50)]
        assert line.get_color() == colour
        assert line.get_label() == f"{100 * quantile:.0f} %: {case['case_id']}"
        assert list(np.asarray(line.get_xdata())) == [0, 5, 10, 20]
        expected = [1, *(case[f"survival_at_{t}"] for t in (5, 10, 20))]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), expected)
    assert axes.get_xlabel() == "Time (days)"
    assert axes.get_ylabel() == "Predicted survival (PFI)"


def test_equal_predictions_do_not_hide_each_other(tmp_path: Path) -> None:
    table = predictions(50)
    for t in TIMES:
        table[f"survival_at_{t:g}"] = np.exp(-t / 20)
    survival_curves(table, "days", "OS").savefig(tmp_path / "curves.png", dpi=200)
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    curves = picture[: 2 * len(picture) // 3, :, ::-1].astype(int)
    for colour, _ in QUANTILES.values():
        visible = np.abs(curves - 255 * np.array(to_rgb(colour))).max(axis=2) < 10
        assert visible.sum() > 50


def test_all_others_are_grey_and_many_are_a_sample() -> None:
    for cases, drawn in ((50, 50), (MAX_GREY + 100, MAX_GREY)):
        [axes] = survival_curves(predictions(cases), "days", "OS").axes
        [lines] = [c for c in axes.collections if isinstance(c, LineCollection)]
        assert len(lines.get_segments()) == drawn


def test_few_cases_are_each_shown_once() -> None:
    assert chosen(1) == {0.9: 0}
    assert chosen(2) == {0.9: 1, 0.3: 0}
    assert sorted(chosen(5).values()) == [0, 1, 2, 3, 4]


def test_what_cannot_be_drawn_says_why() -> None:
    table = predictions(10)
    for cases, reason in (
        (table.drop(columns=[f"survival_at_{t:g}" for t in TIMES]), "no events"),
        (table.assign(standardized_risk=np.nan), "no case has a finite risk"),
        (table.assign(**{f"survival_at_{t:g}": np.nan for t in TIMES}), "finite probabilities"),
    ):
        figure = survival_curves(cases, "days", "OS")
        assert figure.axes == []
        assert reason in " ".join(figure.texts[0].get_text().split())


def test_an_id_is_shown_as_far_as_it_fits_and_can_be_drawn() -> None:
    table = predictions(2).head(1)
    for given, shown in (("\x0b<$x$>&", "\ufffd<$x$>&"), ("c" * 30, "c" * 23 + "…")):
        figure = survival_curves(table.assign(case_id=given), "days", "OS")
        assert figure.axes[0].lines[0].get_label() == f"90 %: {shown}"
        assert "</svg>" in svg_inline(figure, "name", "label")
