"""Cox regression on principal components: against scikit-survival and lifelines, and on unsuitable data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sksurv.linear_model import CoxPHSurvivalAnalysis

from milsurv.aggregators.cox_regression import (
    BoolArray,
    FloatArray,
    fit_components_cox,
    partial_log_likelihood,
    penalized_cox,
)
from milsurv.errors import MilsurvError
from milsurv.evaluation.pairs import c_index


def _cohort(n: int, p: int, seed: int = 0, effect: float = 1.0) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Features with a decreasing spectrum, of which the largest component changes the hazard."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal((n, min(n, p))) * 2.0 ** -np.arange(min(n, p))
    axes = np.linalg.qr(random.standard_normal((p, min(n, p))))[0]
    event_time = random.exponential(np.exp(-effect * scores[:, 0]))
    censored = random.exponential(2.0, n)
    return scores @ axes.T + 5, np.minimum(event_time, censored), event_time <= censored


def _reference(covariates: FloatArray, time: FloatArray, event: BoolArray, penalty: float) -> FloatArray:
    outcome = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
    fitted = CoxPHSurvivalAnalysis(alpha=penalty, ties="breslow", tol=1e-12).fit(covariates, outcome)
    return np.asarray(fitted.coef_)


@pytest.mark.parametrize("penalty", [0.01, 3.0, 100.0])
def test_the_penalised_fit_is_scikit_survivals(penalty: float) -> None:
    features, time, event = _cohort(150, 6)
    tied = np.ceil(time * 5)
    found, expected = (fit(features, tied, event, penalty) for fit in (penalized_cox, _reference))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_without_a_penalty_the_fit_is_lifelines() -> None:
    features, time, event = _cohort(150, 4)
    table = pd.DataFrame(features).assign(time=time, event=event)
    fitter = CoxPHFitter().fit(table, "time", "event", fit_options={"precision": 1e-12})
    np.testing.assert_allclose(penalized_cox(features, time, event, 0.0), fitter.params_, rtol=1e-5)


def test_the_model_is_a_cox_model_of_the_principal_components() -> None:
    features, time, event = _cohort(120, 40)
    model = fit_components_cox(features, time, event, seed=1)
    standardized = (features - features.mean(0)) / features.std(0)
    left, values, _ = np.linalg.svd(standardized, full_matrices=False)
    scores = (left * values)[:, : model.components] / (values[0] / np.sqrt(len(features)))
    expected = scores @ _reference(scores, time, event, model.penalty)
    np.testing.assert_allclose(model.risk(features), expected, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_the_log_likelihood_is_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 12))
    risk, time, event = random.normal(0, 3, n), random.integers(1, 6, n).astype(float), random.random(n) < 0.5
    terms = [risk[i] - np.log(np.exp(risk[time >= time[i]]).sum()) for i in np.flatnonzero(event)]
    assert partial_log_likelihood(risk, time, event) == pytest.approx(sum(terms))


def test_risk_finds_the_signal_and_is_zero_on_average() -> None:
    features, time, event = _cohort(200, 300)
    model = fit_components_cox(features[:150], time[:150], event[:150], seed=1)
    assert c_index(time[150:], event[150:], model.risk(features[150:])) > 0.65
    assert model.risk(features[:150]).mean() == pytest.approx(0, abs=1e-9)


def test_cross_fitted_risk_is_not_fitted_to_the_case_itself() -> None:
    """On features that say nothing, risk that is fitted to the cases looks good, cross-fitted risk does not."""
    fitted, crossed = [], []
    for seed in range(8):
        features, time, event = _cohort(100, 60, seed, effect=0.0)
        model = fit_components_cox(features, time, event, seed)
        fitted.append(c_index(time, event, model.risk(features)))
        crossed.append(c_index(time, event, model.cross_fitted))
    assert np.mean(fitted) > np.mean(crossed) + 0.03
    assert np.mean(crossed) < 0.52


def test_the_same_seed_gives_the_same_numbers() -> None:
    features, time, event = _cohort(80, 200)
    first, second = (fit_components_cox(features, time, event, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.cross_fitted, second.cross_fitted)


@pytest.mark.parametrize(
    ("n", "p", "events"), [(20, 5000, 5), (20, 3, 5), (30, 40, 1), (4, 7, 2), (3, 1, 3), (12, 6, 12)]
)
def test_small_cohorts_have_finite_risks(n: int, p: int, events: int) -> None:
    features, time, _ = _cohort(n, p)
    model = fit_components_cox(features, time, np.arange(n) < events, seed=1)
    assert np.isfinite(model.risk(features)).all()
    assert np.isfinite(model.cross_fitted).all()


def test_features_that_separate_the_events_have_finite_risks() -> None:
    features, _, _ = _cohort(60, 5)
    time = np.exp(-50 * features[:, 0])
    model = fit_components_cox(features, time / time.min(), np.ones(60, dtype=bool), seed=1)
    assert np.isfinite(model.risk(features)).all()
    assert c_index(time, np.ones(60), model.risk(features)) > 0.9


@pytest.mark.parametrize("constant", ["some", "all"])
def test_constant_features_have_no_weight(constant: str) -> None:
    features, time, event = _cohort(60, 8)
    fixed: npt.NDArray[np.bool_] = np.arange(8) < (3 if constant == "some" else 8)
    features[:, fixed] = 7.3
    model = fit_components_cox(features, time, event, seed=1)
    assert (model.weights[fixed] == 0).all()
    assert np.isfinite(model.risk(features)).all()
    assert (model.weights[~fixed] != 0).all()


@pytest.mark.parametrize(("n", "events"), [(2, 2), (50, 0)])
def test_too_few_cases_or_events_are_an_error(n: int, events: int) -> None:
    features, time, _ = _cohort(n, 3)
    with pytest.raises(MilsurvError, match=f"there are {n} cases and {events} events"):
        fit_components_cox(features, time, np.arange(n) < events, seed=1)


def test_features_that_vary_in_few_cases_do_not_decide() -> None:
    """Nearly constant where the model is fitted, such a feature can be far from its mean in another case."""
    features, time, event = _cohort(100, 30)
    rare = np.zeros((100, 20))
    rare[np.arange(20), np.arange(20)] = 0.02
    rare += 2e-6 * np.random.default_rng(1).standard_normal(rare.shape)
    model = fit_components_cox(np.hstack([features, rare]), time, event, seed=1)
    without = fit_components_cox(features, time, event, seed=1)
    assert np.abs(model.cross_fitted).max() < 2 * np.abs(without.cross_fitted).max()
    assert np.corrcoef(model.cross_fitted, without.cross_fitted)[0, 1] > 0.9
