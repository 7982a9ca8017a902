from __future__ import annotations

import numpy as np
import pandas as pd

from milsurv.report.figures.training import PART_COLOURS, training_curves
from tests.report.make_run import EPOCHS, make_history


def history(selection: str = "inner_validation") -> pd.DataFrame:
    return pd.concat(
        [make_history(s, f, selection).assign(seed=s, fold=f) for s in (1, 2) for f in (0, 1, 2)],
        ignore_index=True,
    )


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


def test_without_a_history_the_reason_is_drawn() -> None:
    figure = training_curves(pd.DataFrame(), [0])
    assert figure.axes == []
    assert "no training history" in " ".join(figure.texts[0].get_text().split())
