from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milsurv.evaluation.risk_groups import risk_groups
from milsurv.report.figures.forest import forest
from milsurv.report.figures.kaplan_meier import kaplan_meier
from milsurv.report.figures.style import HIGH, LOW
from milsurv.report.figures.training import PART_COLOURS, training_curves
from milsurv.report.svg import svg_file, svg_inline
from tests.report.make_run import EPOCHS, make_follow_up, make_history, predict


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    return predict(make_follow_up(50, 2), [1], [])


@pytest.fixture(scope="module")
def groups(predictions: pd.DataFrame) -> dict[str, Any]:
    return risk_groups(predictions)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def history(selection: str = "inner_validation") -> pd.DataFrame:
    return pd.concat(
        [make_history(s, f, selection).assign(seed=s, fold=f) for s in (1, 2) for f in (0, 1, 2)],
        ignore_index=True,
    )


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


def test_training_curves_have_a_row_for_each_fold_and_a_line_for_each_seed() -> None:
    table = history()
    figure = training_curves(table, [0, 1, 2])
    assert len(figure.axes) == 6
    for axes, fold in zip(figure.axes[::2], (0, 1, 2), strict=True):
        rows = table[table["fold"] == fold]
        drawn = [
            np.asarray(line.get_ydata())
            for line in axes.lines
            if line.get_color() == PART_COLOURS["validation"]
        ]
        expected = [run["validation_loss"].to_numpy() for _, run in rows.groupby("seed")]
        np.testing.assert_array_equal(drawn, expected)
        dots = [
            (float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0]))
            for line in axes.lines
            if line.get_marker() == "o"
        ]
        kept = rows[rows["chosen"] == 1]
        assert dots == list(zip(kept["epoch"].astype(float), kept["validation_loss"], strict=True))
        assert axes.get_xlabel() == "Epoch"
        assert axes.get_ylabel() == "Loss"


def test_every_fold_has_the_same_axes_alone_and_together() -> None:
    table = history()
    together = [axes.get_ylim() for axes in training_curves(table, [0, 1, 2]).axes]
    alone = [axes.get_ylim() for fold in (0, 1, 2) for axes in training_curves(table, [fold]).axes]
    assert alone == together
    assert len(set(together[::2])) == 1


def test_a_single_epoch_is_seen() -> None:
    first = history().query("epoch == 1")
    for axes in training_curves(first.assign(chosen=1), [0]).axes:
        assert [line.get_marker() for line in axes.lines if len(np.asarray(line.get_xdata())) == 1].count(
            "."
        ) == 4


def test_without_validation_the_dot_is_on_the_training_curve() -> None:
    table = history("last_epoch")
    loss, c_index = training_curves(table, [1]).axes
    dots = [line for line in loss.lines if line.get_marker() == "o"]
    last = table[(table["fold"] == 1) & (table["epoch"] == EPOCHS)]["train_loss"].tolist()
    assert [float(np.asarray(dot.get_ydata())[0]) for dot in dots] == last
    assert np.isfinite([*loss.get_ylim(), *c_index.get_ylim()]).all()
    assert "validation" not in [text.get_text() for text in loss.figure.texts]


def test_a_figure_gives_the_same_svg_each_time(groups: dict[str, Any]) -> None:
    first, second = (svg_file(kaplan_meier(groups, "months", "OS"), "name") for _ in range(2))
    assert first == second
    assert ET.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"


def test_inline_figures_share_no_ids(groups: dict[str, Any]) -> None:
    def ids(figure: Figure, name: str) -> set[str]:
        root = ET.fromstring(svg_inline(figure, name, 'curves "A" & <B>'))
        assert root.get("aria-label") == 'curves "A" & <B>'
        assert root.get("viewBox")
        return {element.attrib["id"] for element in root.iter() if "id" in element.attrib}

    one, other = (ids(kaplan_meier(groups, "months", "OS"), name) for name in ("one", "other"))
    assert one
    assert not one & other


def test_a_forest_plot_marks_optimistic_runs() -> None:
    def found(value: float) -> dict[str, object]:
        return {"value": value, "interval": [value - 0.1, value + 0.1], "reason": None}

    runs = [
        {"name": name, "selection": selection, "harrell_c_index": found(0.6)}
        for name, selection in (("one", "both"), ("other", "reported_fold"))
    ]
    pairs = [{"first": "one", "second": "other", "difference": found(0.0)}]
    above, below = forest({"runs": runs, "pairs": pairs}).axes
    assert [label.get_text() for label in above.get_yticklabels()] == ["other (optimistic)", "one"]
    assert [label.get_text() for label in below.get_yticklabels()] == ["one - other (optimistic)"]
    assert above.get_xlabel() == "Harrell's C, 95 % interval"
    assert below.get_xlabel() == "Difference in Harrell's C, 95 % interval"
