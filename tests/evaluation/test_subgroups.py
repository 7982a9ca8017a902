from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from milsurv.errors import MilsurvError
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.subgroups import subgroups


def groups_of(values: list[str]) -> dict[str, list[int]]:
    made = subgroups({str(i): {"column": value} for i, value in enumerate(values)}, ["column"])["column"]
    return {value: [int(case_id) for case_id in ids] for value, ids in made.items()}


def test_each_value_is_a_subgroup_and_so_are_empty_cells() -> None:
    made = groups_of(["III", "", "I", "III", "10", "9"])
    assert made == {"9": [5], "10": [4], "I": [2], "III": [0, 3], "missing": [1]}
    assert list(made) == ["9", "10", "I", "III", "missing"]


def test_numbers_are_split_at_their_median_over_all_cases() -> None:
    ages = ["", *(str(age) for age in range(40, 52))]
    made = groups_of(ages)
    assert made == {"≤ 45.5": [*range(1, 7)], "> 45.5": [*range(7, 13)], "missing": [0]}
    assert list(made) == ["≤ 45.5", "> 45.5", "missing"]


def test_a_median_that_is_the_highest_value_still_makes_two() -> None:
    made = groups_of([*(str(n) for n in range(11)), *12 * ["11"]])
    assert {name: len(ids) for name, ids in made.items()} == {"< 11": 11, "≥ 11": 12}


def test_many_words_are_refused_in_a_line() -> None:
    with pytest.raises(
        MilsurvError, match=r"column 'column' has 11 distinct values; allowed: at most 10, or num"
    ):
        groups_of([*"abcdefghijk"])
    with pytest.raises(MilsurvError, match="11 distinct values"):
        groups_of(["nan", *map(str, range(10))])


@given(st.lists(st.sampled_from([*map(str, range(30)), "", "1.0"]), min_size=1, max_size=60))
def test_every_case_is_in_one_subgroup(values: list[str]) -> None:
    made = groups_of(values)
    assert sorted(i for ids in made.values() for i in ids) == list(range(len(values)))
    assert all(made.values())


def test_a_subgroup_is_measured_like_a_cohort_of_its_cases(study: Callable[..., Any]) -> None:
    made = study(3, cases=120, folds=3, bootstraps=20, times=(5.0,))
    rows = made.predictions
    attributes = {case_id: {"sex": "MF"[i % 2]} for i, case_id in enumerate(rows["case_id"])}
    both = pd.concat([rows, rows.assign(seed=8, risk=-rows["risk"])])
    groups = subgroups(attributes, ["sex"])
    result = evaluate(both, made.training, made.times, made.settings, groups)
    told = [(e["seed"], e["column"], e["value"], e["cases"]) for e in result["subgroups"]]
    assert told == [(7, "sex", "F", 60), (7, "sex", "M", 60), (8, "sex", "F", 60), (8, "sex", "M", 60)]
    alone = replace(made, predictions=rows[rows["case_id"].isin(groups["sex"]["F"])]).evaluated()["pooled"][0]
    for name in ("events", "metrics", "calibration", "high_against_low"):
        assert result["subgroups"][0][name] == alone[name]
    whole = made.evaluated()
    assert whole["subgroups"] == []
    assert result["folds"][:3] == whole["folds"]


def test_a_subgroup_of_two_cases_has_reasons(study: Callable[..., Any]) -> None:
    made = study(0, cases=60, folds=2, times=(5.0,)).with_predictions(event=1, time=np.arange(60) + 1.0)
    attributes = {
        case_id: {"stage": "I" if i else ""} for i, case_id in enumerate(made.predictions["case_id"])
    }
    groups = subgroups(attributes, ["stage"])
    found = evaluate(made.predictions, made.training, made.times, made.settings, groups)
    result: Any = found["subgroups"]
    (alone,) = [entry for entry in result if entry["value"] == "missing"]
    assert alone["cases"] == 1
    for metric in (*alone["metrics"].values(), *alone["high_against_low"].values()):
        assert metric["value"] is None
        assert metric["reason"]
    json.dumps(result, allow_nan=False)
