"""Recalibration against Cox models and Kaplan-Meier curves of lifelines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from torch import Tensor

from milsurv.evaluation.recalibration import MAX_SLOPE, HeldOutRisks, Recalibration, shrunk_slope


def held_out(n: int, effect: float, models: int = 1, seed: int = 0) -> HeldOutRisks:
    """Times that shorten with the risk, a third of them censored."""
    random = np.random.default_rng(seed)
    risk = random.normal(size=n)
    time = random.exponential(np.exp(-effect * risk))
    censored = random.exponential(2.0, n)
    return HeldOutRisks(
        torch.from_numpy(risk),
        torch.from_numpy(np.minimum(time, censored)),
        torch.from_numpy((time <= censored).astype(float)),
        torch.arange(n) % models,
    )


@pytest.mark.parametrize("models", [1, 3])
def test_the_slope_is_that_of_a_stratified_cox_model_shrunk(models: int) -> None:
    cases = held_out(80, 0.6, models)
    columns = {"risk": cases.risk, "time": cases.time, "event": cases.event, "model": cases.model}
    cox = CoxPHFitter().fit(pd.DataFrame(columns), "time", "event", strata=["model"])
    statistic = cox.log_likelihood_ratio_test().test_statistic
    expected = float(cox.params_["risk"]) * (statistic - 1) / statistic
    assert shrunk_slope(cases) == pytest.approx(expected, rel=1e-3)


def test_no_slope_where_the_risk_is_wrong_or_tells_little() -> None:
    good = held_out(80, 0.6)
    wrong = HeldOutRisks(-good.risk, good.time, good.event, good.model)
    none = HeldOutRisks(good.risk * 0, good.time, good.event, good.model)
    censored = HeldOutRisks(good.risk, good.time, good.event * 0, good.model)
    few = HeldOutRisks(torch.tensor([0.1, 0.0]), torch.tensor([1.0, 2.0]), torch.ones(2), torch.zeros(2))
    assert [shrunk_slope(cases) for cases in (wrong, none, censored, few)] == [0, 0, 0, 0]


def test_a_risk_that_orders_all_cases_has_a_bounded_slope() -> None:
    risk = torch.linspace(2, -2, 20, dtype=torch.float64)
    cases = HeldOutRisks(risk, torch.arange(1.0, 21), torch.ones(20), torch.zeros(20))
    assert MAX_SLOPE / 2 < shrunk_slope(cases) <= MAX_SLOPE


Case = tuple[int, bool, float]
CASES = st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.floats(-5, 5)), min_size=1, max_size=30)


def tensors(cases: list[Case]) -> tuple[Tensor, Tensor, Tensor]:
    time, event, risk = (torch.tensor(column, dtype=torch.float64) for column in zip(*cases, strict=True))
    return time, event, risk


@given(cases=CASES, others=CASES, slope_from=st.sampled_from([None, 0.0, 1.5]))
@settings(max_examples=60, deadline=None)
def test_mean_survival_of_the_held_out_cases_is_kaplan_meier(
    cases: list[Case], others: list[Case], slope_from: float | None
) -> None:
    time, event, risk = tensors(cases)
    all_time, all_event, _ = tensors(cases + others)
    assume(all_event.any())
    held = None if slope_from is None else HeldOutRisks(risk, time, event, risk * 0)
    fitted = Recalibration.fit(held, all_time, all_event, median=3.0, deviation=2.0)
    times = torch.arange(0, 14, 0.5, dtype=torch.float64)
    survival = fitted.survival(3 + 2 * risk, times)
    curve = KaplanMeierFitter().fit(all_time, all_event).predict(times.numpy()).to_numpy()
    np.testing.assert_allclose(survival.mean(dim=0), curve, atol=1e-9)
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (survival.diff(dim=1) <= 0).all()
    if fitted.slope == 0:
        np.testing.assert_allclose(survival, np.tile(curve, (len(risk), 1)), atol=1e-9)


def test_the_ranking_is_that_of_the_risk() -> None:
    cases = held_out(60, 1.0)
    fitted = Recalibration.fit(cases, cases.time, cases.event, 0.0, 1.0)
    survival = fitted.survival(cases.risk, torch.tensor([0.5]))[:, 0]
    assert fitted.slope > 0
    assert survival.argsort().tolist() == cases.risk.argsort(descending=True).tolist()


def test_the_state_predicts_the_same() -> None:
    cases = held_out(30, 1.0)
    fitted = Recalibration.fit(cases, cases.time, cases.event, 0.3, 1.7)
    again = Recalibration.from_state(fitted.state_dict())
    times = torch.tensor([0.1, 0.5, 3.0])
    assert torch.equal(again.survival(cases.risk, times), fitted.survival(cases.risk, times))


def test_risks_of_training_cases_that_do_not_differ_give_no_division_by_zero() -> None:
    cases = held_out(30, 1.0)
    fitted = Recalibration.fit(cases, cases.time, cases.event, median=0.0, deviation=0.0)
    assert fitted.survival(cases.risk, torch.tensor([0.5])).isfinite().all()


def test_on_noise_it_is_hardly_worse_than_kaplan_meier() -> None:
    """Brier scores of uncensored new cases at the median time, over many cohorts, against the curve's own."""
    scores = []
    for seed in range(40):
        cases, new = held_out(30, 0.0, seed=seed), held_out(200, 0.0, seed=1000 + seed)
        fitted = Recalibration.fit(cases, cases.time, cases.event, 0.0, 1.0)
        curve = Recalibration.fit(None, cases.time, cases.event, 0.0, 1.0)
        alive = (torch.rand(200, generator=torch.Generator().manual_seed(seed)) > 0.5).double()
        at = torch.tensor([float(np.log(2))])
        scores.append(
            [float((of.survival(new.risk, at)[:, 0] - alive).square().mean()) for of in (fitted, curve)]
        )
    model, reference = np.mean(scores, axis=0)
    assert 1 - model / reference >= -0.02
