from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index

from milsurv.config.run import Evaluation
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import EvaluationTimes, evaluation_times, time_text


def all_metrics(result: Any) -> Iterator[dict[str, Any]]:
    """Every metric in it, however deep."""
    if isinstance(result, dict):
        if {"value", "interval", "reason"} <= set(result):
            yield result
        for value in result.values():
            yield from all_metrics(value)
    elif isinstance(result, list):
        for value in result:
            yield from all_metrics(value)


def test_the_shape_of_the_account(study: Callable[..., Any]) -> None:
    made = study(0, cases=90, folds=3, bootstraps=50, times=(2.0, 4.5))
    second = made.predictions.assign(seed=8, risk=-made.predictions["risk"])
    result = replace(made, predictions=pd.concat([made.predictions, second])).evaluated()
    names = {
        "harrell_c_index",
        "uno_c_index",
        "integrated_area_under_roc",
        "integrated_brier_score",
        "integrated_brier_score_kaplan_meier",
        "integrated_index_of_prediction_accuracy",
        *(
            f"{name}_at_{t}"
            for t in ("2", "4.5")
            for name in (
                "area_under_roc",
                "brier_score",
                "brier_score_kaplan_meier",
                "index_of_prediction_accuracy",
            )
        ),
    }
    assert result["seeds"] == [7, 8]
    assert result["times"] == [2, 4.5]
    assert result["integration_times"] == list(made.times.integration)
    assert [(f["seed"], f["fold"], f["cases"]) for f in result["folds"]] == [
        (seed, fold, 30) for seed in (7, 8) for fold in range(3)
    ]
    assert [(p["seed"], p["cases"]) for p in result["pooled"]] == [(7, 90), (8, 90)]
    for entry in (*result["folds"], *result["pooled"]):
        assert set(entry["metrics"]) == names
        for metric in entry["metrics"].values():
            low, high = metric["interval"]
            assert low <= metric["value"] <= high
            assert metric["reason"] is None
    assert set(result["summary"]) == names
    assert result["true_risk"] is None


def test_fold_values_and_their_summary(study: Callable[..., Any]) -> None:
    made = study(1, cases=90, folds=3)
    result = made.evaluated()
    expected = [
        concordance_index(rows["time"], -rows["risk"], rows["event"])
        for _, rows in made.predictions.groupby("fold")
    ]
    assert [f["metrics"]["harrell_c_index"]["value"] for f in result["folds"]] == pytest.approx(expected)
    assert result["summary"]["harrell_c_index"] == {
        "mean": pytest.approx(np.mean(expected)),
        "standard_deviation": pytest.approx(np.std(expected, ddof=1)),
        "folds": 3,
        "note": None,
    }
    for fold, entry in enumerate(result["folds"]):
        event_times = made.training[fold].time[made.training[fold].event == 1]
        assert entry["metrics"]["uno_c_index"]["truncated_at"] == np.quantile(event_times, 0.8)
    assert set(result["pooled"][0]["metrics"]["uno_c_index"]["truncated_at_by_fold"]) == {"0", "1", "2"}


def test_the_same_again_in_any_order_of_rows(study: Callable[..., Any]) -> None:
    made = study(2, cases=60, folds=3, bootstraps=100)
    first = json.dumps(made.evaluated())
    shuffled = replace(made, predictions=made.predictions.sample(frac=1, random_state=0))
    assert json.dumps(shuffled.evaluated()) == first


def test_the_seed_of_the_bootstrap_moves_intervals_alone(study: Callable[..., Any]) -> None:
    made = study(2, bootstraps=100)
    other = replace(made, settings=Evaluation(bootstraps=100, seed=2)).evaluated()
    (one,), (two,) = (result["folds"] for result in (made.evaluated(), other))
    for name, metric in one["metrics"].items():
        assert metric["value"] == two["metrics"][name]["value"]
        assert metric["interval"] != two["metrics"][name]["interval"]
    assert one["high_against_low"] == two["high_against_low"]


def test_interval_of_many_cases_is_that_of_a_plain_bootstrap(study: Callable[..., Any]) -> None:
    made = study(4, cases=150, bootstraps=1000)
    rows = made.predictions
    rng = np.random.default_rng(11)
    plain = []
    for _ in range(1000):
        drawn = rows.iloc[rng.integers(len(rows), size=len(rows))]
        plain.append(concordance_index(drawn["time"], -drawn["risk"], drawn["event"]))
    interval = made.evaluated()["folds"][0]["metrics"]["harrell_c_index"]["interval"]
    assert interval == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.01)


def test_true_risk_is_counted_once_whatever_the_seeds(study: Callable[..., Any]) -> None:
    made = study(5, cases=60, folds=2, bootstraps=50)
    known = made.with_predictions(true_risk=made.predictions["risk"])
    both = pd.concat([known.predictions, known.predictions.assign(seed=8, risk=0.0)])
    bound = replace(known, predictions=both).evaluated()["true_risk"]
    alone = made.evaluated()
    pooled = bound["harrell_c_index"].pop("pooled")
    assert pooled == alone["pooled"][0]["metrics"]["harrell_c_index"]
    assert bound["harrell_c_index"] == alone["summary"]["harrell_c_index"]
    assert "synthetic" in bound["note"]
    assert made.with_predictions(true_risk=np.nan).evaluated()["true_risk"] is None


def test_a_fold_of_equal_risks_is_left_out_of_the_mean_and_counts_half_in_the_pool(
    study: Callable[..., Any],
) -> None:
    made = study(0, folds=2)
    rows = made.predictions
    result = made.with_predictions(risk=rows["risk"].where(rows["fold"] == 0, 1.0)).evaluated()
    one, two = (fold["metrics"]["harrell_c_index"] for fold in result["folds"])
    assert two["value"] is None
    assert result["summary"]["harrell_c_index"]["mean"] == one["value"]
    assert "1 × the risk is the same" in result["summary"]["harrell_c_index"]["note"]
    pooled = result["pooled"][0]["metrics"]["harrell_c_index"]["value"]
    assert min(0.5, one["value"]) < pooled < max(0.5, one["value"])


def test_without_bootstraps_the_reason_says_so(study: Callable[..., Any]) -> None:
    metric = study(0).evaluated()["folds"][0]["metrics"]["harrell_c_index"]
    assert metric["value"] is not None
    assert metric["interval"] is None
    assert "bootstraps is 0" in metric["reason"]


NO_TRAINING_EVENT = TrainingFollowUp(np.array([5.0, 6.0]), np.array([0, 0]))
SHORT_TRAINING = TrainingFollowUp(np.array([1.0, 2.0]), np.array([1, 0]))


def no_events(made: Any) -> Any:
    return made.with_predictions(event=0)


def one_case(made: Any) -> Any:
    return replace(made, predictions=made.predictions[:1])


def one_time(made: Any) -> Any:
    return made.with_predictions(time=3.0, event=1)


def nan_risk(made: Any) -> Any:
    return made.with_predictions(risk=made.predictions["risk"].where(made.predictions.index > 2))


def no_training_event(made: Any) -> Any:
    return replace(made, training={0: NO_TRAINING_EVENT})


def short_training(made: Any) -> Any:
    return replace(made, training={0: SHORT_TRAINING})


def late_time(made: Any) -> Any:
    return made.with_predictions(time=made.predictions["time"].clip(upper=4))


def early_time(made: Any) -> Any:
    return made.with_predictions(time=made.predictions["time"] + 10)


def bad_survival(made: Any) -> Any:
    return made.with_predictions(**{"survival_at_5": 1.5})


def equal_risks(made: Any) -> Any:
    return made.with_predictions(risk=1.0, standardized_risk=0.0, high_risk=0)


def two_events(made: Any) -> Any:
    return made.with_predictions(event=(made.predictions.index < 2).astype(int))


DEGENERATE = [
    (equal_risks, "harrell_c_index", "the risk is the same for all cases"),
    (equal_risks, "uno_c_index", "the risk is the same for all cases"),
    (equal_risks, "area_under_roc_at_5", "the risk is the same for all cases"),
    (equal_risks, "integrated_area_under_roc", "the risk is the same for all cases"),
    (no_events, "harrell_c_index", "no events"),
    (no_events, "uno_c_index", "no events"),
    (no_events, "integrated_brier_score", "no events"),
    (no_events, "integrated_area_under_roc", "no events"),
    (no_events, "index_of_prediction_accuracy_at_5", "no events"),
    (no_events, "area_under_roc_at_5", "no events"),
    (one_case, "harrell_c_index", "no"),
    (one_time, "harrell_c_index", "no comparable pairs"),
    (one_time, "uno_c_index", "no comparable pairs"),
    (one_time, "area_under_roc_at_5", "no case is followed beyond 5: the last follow-up ends at 3"),
    (nan_risk, "harrell_c_index", "the risk of 3 of 60 cases is not a finite number"),
    (nan_risk, "area_under_roc_at_5", "the risk of 3 of 60 cases is not a finite number"),
    (no_training_event, "uno_c_index", "no events among the training cases"),
    (no_training_event, "brier_score_at_5", "no events among the training cases"),
    (short_training, "brier_score_at_5", "censoring weights undefined at 5"),
    (short_training, "area_under_roc_at_5", "censoring weights undefined at 5"),
    (late_time, "brier_score_at_5", "no case is followed beyond 5"),
    (late_time, "integrated_area_under_roc", "no case is followed beyond"),
    (late_time, "index_of_prediction_accuracy_at_5", "no case is followed beyond 5"),
    (nan_risk, "integrated_area_under_roc", "the risk of 3 of 60 cases is not a finite number"),
    (early_time, "area_under_roc_at_5", "no events by 5"),
    (bad_survival, "brier_score_at_5", "the survival of 60 of 60 cases is not within [0, 1]"),
]


@pytest.mark.parametrize(
    "spoil", [equal_risks, two_events, no_events, one_case, one_time, late_time, early_time]
)
def test_the_rest_of_a_degenerate_account_is_null_with_its_reason_too(
    study: Callable[..., Any], spoil: Callable[[Any], Any]
) -> None:
    """Hazard ratio, log-rank test, calibration, medians: numbers or reasons."""
    result = spoil(study(0, bootstraps=10, times=(5.0,))).evaluated()
    json.dumps(result, allow_nan=False)
    account = result["pooled"][0]
    groups, comparison = account["risk_groups"], account["high_against_low"]
    told = [
        *comparison.values(),
        groups["log_rank_p_value"],
        *(groups[g]["median_survival"] for g in ("high", "low")),
    ]
    told += [account["calibration"]["d_calibration"], *(at["slope"] for at in account["calibration"]["at"])]
    for metric in told:
        assert metric["value"] is not None or metric["reason"]
    if spoil not in (late_time, early_time):
        assert comparison["hazard_ratio"]["value"] is None


@pytest.mark.parametrize(
    ("events", "told"),
    [(2, "no interval: 2 events, and a bootstrap interval requires at least 5"), (5, None)],
)
def test_few_events_have_no_interval(study: Callable[..., Any], events: int, told: str | None) -> None:
    made = study(0, bootstraps=50)
    few = made.with_predictions(event=(made.predictions.index < events).astype(int)).evaluated()
    metric = few["pooled"][0]["metrics"]["harrell_c_index"]
    assert metric["value"] is not None
    assert (metric["interval"] is None) == (told is not None)
    assert (metric["reason"] or "").startswith(told or "")


@pytest.mark.parametrize(("spoil", "name", "reason"), DEGENERATE)
def test_what_cannot_be_computed_is_null_with_its_reason(
    study: Callable[..., Any], spoil: Callable[[Any], Any], name: str, reason: str
) -> None:
    made = study(0, bootstraps=10, times=(5.0,))
    result = spoil(made).evaluated()
    json.dumps(result, allow_nan=False)
    for entry in (result["folds"][0], result["pooled"][0]):
        metric = entry["metrics"][name]
        assert metric["value"] is None
        assert metric["interval"] is None
        assert reason in metric["reason"]
    assert result["summary"][name]["mean"] is None
    assert reason in result["summary"][name]["note"]
    for metric in all_metrics(result):
        assert metric["value"] is not None or metric["reason"]


def test_a_fold_that_tells_nothing_is_left_out_of_the_mean_and_named_in_the_pool(
    study: Callable[..., Any],
) -> None:
    made = study(0, cases=60, folds=3, bootstraps=10, times=(5.0,))
    event = made.predictions["event"].where(made.predictions["fold"] != 1, 0)
    result = made.with_predictions(event=event).evaluated()
    values = [f["metrics"]["harrell_c_index"]["value"] for f in result["folds"]]
    assert values[1] is None
    assert result["summary"]["harrell_c_index"]["mean"] == pytest.approx((values[0] + values[2]) / 2)
    assert result["summary"]["harrell_c_index"]["note"] == "without 1 of 3 folds: 1 × no events"
    assert result["pooled"][0]["metrics"]["harrell_c_index"]["value"] is not None

    training = {**made.training, 2: NO_TRAINING_EVENT}
    pooled = replace(made, training=training).evaluated()["pooled"][0]["metrics"]
    for name in ("uno_c_index", "brier_score_at_5", "area_under_roc_at_5", "integrated_brier_score"):
        assert pooled[name]["reason"].startswith("fold 2: "), name
    assert pooled["uno_c_index"]["truncated_at_by_fold"]["2"] is None


def test_interval_is_null_when_most_resamples_tell_nothing(study: Callable[..., Any]) -> None:
    made = study(0, cases=3, bootstraps=400, times=(1.0,)).with_predictions(
        time=[1.0, 2.0, 3.0], event=[0, 1, 0]
    )
    metric = made.evaluated()["folds"][0]["metrics"]["harrell_c_index"]
    assert metric["value"] is not None
    assert metric["interval"] is None
    assert "of 400 bootstrap resamples" in metric["reason"]


def test_a_cohort_without_events_goes_through(study: Callable[..., Any]) -> None:
    made = no_events(study(0, folds=2))
    rows = made.predictions
    times = evaluation_times(rows["time"], rows["event"], made.settings)
    result = replace(made, times=times).evaluated()
    json.dumps(result, allow_nan=False)
    assert result["times"] == result["integration_times"] == []
    assert "no events" in result["pooled"][0]["metrics"]["integrated_brier_score"]["reason"]


def test_no_predictions_at_all(study: Callable[..., Any]) -> None:
    made = study(0)
    result = replace(made, predictions=made.predictions[:0]).evaluated()
    assert result["seeds"] == result["folds"] == result["pooled"] == []
    assert result["summary"] == {}


def test_cases_of_several_folds_count_in_each_but_once_in_risk_groups(study: Callable[..., Any]) -> None:
    """A second round of folds under other numbers: C over both, and no interval that takes them for independent."""
    one = study(folds=2, cases=60, bootstraps=30)
    shuffled = one.predictions.assign(
        fold=3 - one.predictions["fold"], risk=np.random.default_rng(1).permutation(one.predictions["risk"])
    )
    training = {**one.training, 2: one.training[1], 3: one.training[0]}
    twice = replace(
        one, predictions=pd.concat([shuffled, one.predictions], ignore_index=True), training=training
    )
    found, first = twice.evaluated()["pooled"][0], one.evaluated()["pooled"][0]
    second = replace(twice, predictions=shuffled).evaluated()["pooled"][0]
    assert (found["cases"], found["events"]) == (first["cases"], first["events"])
    values = [part["metrics"]["harrell_c_index"]["value"] for part in (first, second)]
    assert min(values) < found["metrics"]["harrell_c_index"]["value"] < max(values)
    for metric in found["metrics"].values():
        assert metric["interval"] is None
        assert metric["reason"]
    assert "several folds" in found["metrics"]["harrell_c_index"]["reason"]
    for part in ("risk_groups", "high_against_low", "calibration"):
        assert found[part] == first[part]
    assert all(fold["metrics"]["harrell_c_index"]["interval"] for fold in twice.evaluated()["folds"])


CURVES = ("area_under_roc", "brier_score", "brier_score_kaplan_meier")


def test_the_curves_go_through_the_evaluation_times(study: Callable[..., Any]) -> None:
    made = study(3, cases=60, folds=2, bootstraps=10)
    grid = made.times.integration
    (pooled,) = replace(made, times=EvaluationTimes(grid, grid)).evaluated()["pooled"]
    assert [found["time"] for found in pooled["over_time"]] == list(grid)
    for found in pooled["over_time"]:
        assert set(found) == {"time", *CURVES}
        for name in CURVES:
            stated = pooled["metrics"][f"{name}_at_{time_text(found['time'])}"]["value"]
            assert found[name]["value"] == (None if stated is None else pytest.approx(stated, abs=1e-12))
            assert (found[name]["reason"] is None) == (stated is not None)


def test_curves_that_cannot_be_computed_have_a_reason(study: Callable[..., Any]) -> None:
    (pooled,) = no_events(study(0)).evaluated()["pooled"]
    assert len(pooled["over_time"]) == 20
    for found in pooled["over_time"]:
        assert all(found[name] == {"value": None, "reason": "no events"} for name in CURVES)
