from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from milsurv.evaluation import compare as tested_compare
from milsurv.evaluation.compare import holm

compare: Any = tested_compare.compare
"""Typed loosely, to index what may be None."""


def rows(
    cases: int = 120, folds: int = 3, noise: float = 1.0, seed: int = 0, event: float = 0.6
) -> pd.DataFrame:
    """Follow-up of the same cases whatever ``noise`` and ``seed``, which are those of the risk alone."""
    rng = np.random.default_rng(9)
    hidden = rng.normal(size=cases)
    return pd.DataFrame(
        {
            "case_id": [f"{number:04d}" for number in range(cases)],
            "fold": np.arange(cases) % folds,
            "time": rng.exponential(np.exp(-hidden)),
            "event": (rng.random(cases) < event).astype(int),
            "risk": hidden + noise * np.random.default_rng(seed).normal(size=cases),
        }
    )


def slow_c(table: pd.DataFrame) -> float:
    """Concordant over comparable pairs, by lifelines fold by fold."""
    right = pairs = 0.0
    for _, fold in table.groupby("fold"):
        time, event = fold["time"].to_numpy(), fold["event"].to_numpy()
        comparable = float(((time[:, None] < time[None]) & (event[:, None] == 1)).sum())
        right += comparable * concordance_index(time, -fold["risk"], event)
        pairs += comparable
    return right / pairs


def test_c_and_difference_are_those_of_lifelines_within_folds() -> None:
    one, other = rows(noise=0.5), rows(noise=2, seed=1)
    found = compare({"one": one, "other": other.sample(frac=1, random_state=1)}, 200, seed=1)
    assert [run["harrell_c_index"]["value"] for run in found["runs"]] == pytest.approx(
        [slow_c(one), slow_c(other)]
    )
    (pair,) = found["pairs"]
    assert pair["difference"]["value"] == pytest.approx(slow_c(one) - slow_c(other))
    assert (found["cases"], found["events"]) == (120, int(one["event"].sum()))


def test_few_events_have_neither_interval_nor_p() -> None:
    one, other = (
        table.assign(event=(table.index < 3).astype(int)) for table in (rows(), rows(noise=2, seed=1))
    )
    found = compare({"one": one, "other": other}, 200, seed=1)
    (pair,) = found["pairs"]
    for metric in (pair["difference"], found["runs"][0]["harrell_c_index"]):
        assert metric["value"] is not None
        assert metric["interval"] is None
        assert metric["reason"].startswith("no interval: 3 events")
    for p in (pair["p_value"], pair["holm_p_value"]):
        assert p["value"] is None
        assert p["reason"]


def test_the_interval_is_that_of_a_bootstrap_written_out() -> None:
    """Cases drawn with replacement within folds, the same for both runs; other draws, so equal up to chance."""
    one, other = rows(noise=0.7), rows(noise=1.5, seed=1)
    (pair,) = compare({"one": one, "other": other}, 2000, seed=1)["pairs"]
    rng = np.random.default_rng(3)
    differences = []
    for _ in range(400):
        drawn = np.concatenate(
            [
                rng.choice(np.flatnonzero(one["fold"] == fold), int((one["fold"] == fold).sum()))
                for fold in range(3)
            ]
        )
        differences.append(_pairs_c(one.iloc[drawn]) - _pairs_c(other.iloc[drawn]))
    assert pair["difference"]["interval"] == pytest.approx(
        np.quantile(differences, [0.025, 0.975]), abs=0.015
    )


def _pairs_c(table: pd.DataFrame) -> float:
    right = pairs = 0.0
    for _, fold in table.groupby("fold"):
        time, event, risk = (fold[name].to_numpy() for name in ("time", "event", "risk"))
        comparable = (time[:, None] < time[None]) & (event[:, None] == 1)
        right += float(
            (comparable * ((risk[:, None] > risk[None]) + 0.5 * (risk[:, None] == risk[None]))).sum()
        )
        pairs += float(comparable.sum())
    return right / pairs


def test_equal_runs_do_not_differ() -> None:
    (pair,) = compare({"one": rows(), "same": rows().assign(risk=3 * rows()["risk"] + 1)}, 200, seed=1)[
        "pairs"
    ]
    assert pair["difference"]["value"] == 0
    assert pair["difference"]["interval"] == [0, 0]
    assert pair["p_value"]["value"] == pair["holm_p_value"]["value"] == 1


def test_a_clear_difference_is_significant_and_chance_mostly_is_not() -> None:
    (clear,) = compare({"good": rows(noise=0.1), "noise": rows(noise=50)}, 1000, seed=1)["pairs"]
    assert clear["p_value"]["value"] == pytest.approx(2 / 1001)
    p = [
        compare({"a": rows(noise=2, seed=seed), "b": rows(noise=2, seed=seed + 50)}, 300, 1)["pairs"][0][
            "p_value"
        ]
        for seed in range(40)
    ]
    assert sum(found["value"] < 0.05 for found in p) <= 6
    assert min(found["value"] for found in p) > 0


def test_turning_a_pair_around_turns_its_sign() -> None:
    one, other = rows(noise=0.5), rows(noise=1, seed=1)
    (there,), (back,) = (
        compare(dict(order), 300, seed=2)["pairs"]
        for order in ([("a", one), ("b", other)], [("b", other), ("a", one)])
    )
    assert there["difference"]["value"] == -back["difference"]["value"]
    assert there["difference"]["interval"] == pytest.approx(
        [-end for end in back["difference"]["interval"][::-1]]
    )
    assert there["p_value"] == back["p_value"]


def test_without_events_there_are_reasons() -> None:
    silent = rows().assign(event=0)
    found = compare({"a": silent, "b": silent}, 100, seed=1)
    (pair,) = found["pairs"]
    for metric in (
        found["runs"][0]["harrell_c_index"],
        pair["difference"],
        pair["p_value"],
        pair["holm_p_value"],
    ):
        assert metric["value"] is None
        assert metric["reason"] == "no events"


def _slow_holm(p_values: list[float]) -> list[float]:
    """The smallest level at which Holm's procedure rejects each hypothesis, by its definition."""
    m, ranked = len(p_values), sorted(p_values)
    return [
        min(1.0, max((m - place) * ranked[place] for place in range(m) if ranked[place] <= p))
        for p in p_values
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(_slow_holm(p_values))
