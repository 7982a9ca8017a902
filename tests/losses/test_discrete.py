"""The discrete-time losses against the formulas written out, pandas' quantile bins, numpy and lifelines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from milsurv.errors import MilsurvError
from milsurv.losses.discrete import CE, NLL, DiscreteTime

KINDS = pytest.mark.parametrize("kind", [NLL, CE])
EDGES = torch.tensor([0.0, 1.0, 2.5, 4.0, 9.0], dtype=torch.float64)

Row = tuple[list[float], int, int]
"""Logits, bin, event of a case."""


def made(kind: type[DiscreteTime], alpha: float = 0.2) -> DiscreteTime:
    loss = kind(kind.Config.model_validate({"alpha": alpha}))
    loss.load_state_dict({"edges": EDGES})
    return loss


def written_out(kind: type[DiscreteTime], alpha: float, logits: Tensor, label: int, event: int) -> Tensor:
    """A case's loss as released: probabilities first, then logarithms of clamped values."""
    hazards = torch.sigmoid(logits)
    survival = torch.cat([torch.ones(1, dtype=logits.dtype), (1 - hazards).cumprod(dim=0)])
    before, after, c = survival[label], survival[label + 1], 1 - event
    log_hazard = hazards[label].clamp_min(1e-7).log()
    if kind is NLL:
        uncensored = -(1 - c) * (before.clamp_min(1e-7).log() + log_hazard)
        censored = -c * after.clamp_min(1e-7).log()
        return (1 - alpha) * (censored + uncensored) + alpha * uncensored
    uncensored = -(1 - c) * ((before + 1e-7).log() + log_hazard)
    entropy = -c * after.clamp_min(1e-7).log() - (1 - c) * (1 - after).clamp_min(1e-7).log()
    return (1 - alpha) * entropy + alpha * uncensored


def rows(largest: float) -> st.SearchStrategy[list[Row]]:
    logits = st.lists(st.floats(-largest, largest), min_size=4, max_size=4)
    return st.lists(st.tuples(logits, st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6)


def batch(cases: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels, events = zip(*cases, strict=True)
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    return torch.tensor(logits, dtype=torch.float64), middles[list(labels)], torch.tensor(events)


@KINDS
@given(cases=rows(30), alpha=st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=100, deadline=None)
def test_value_and_gradient_equal_the_formula(
    kind: type[DiscreteTime], cases: list[Row], alpha: float
) -> None:
    outputs, time, event = batch(cases)
    outputs.requires_grad_()
    value = made(kind, alpha)(outputs, time, event)
    terms = [written_out(kind, alpha, outputs[i], label, e) for i, (_, label, e) in enumerate(cases)]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-7)
    gradients = [torch.autograd.grad(v, outputs)[0] for v in (value, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-7)


@KINDS
def test_extreme_logits_stay_finite(kind: type[DiscreteTime]) -> None:
    outputs = (
        torch.tensor([[-200.0] * 4, [200.0] * 4, [200.0, -200.0, 200.0, -200.0]])
        .repeat(2, 1)
        .requires_grad_()
    )
    event = torch.tensor([1, 1, 1, 0, 0, 0])
    for label in range(4):
        time = ((EDGES[label] + EDGES[label + 1]) / 2).repeat(6).float()
        value = made(kind)(outputs, time, event)
        (gradient,) = torch.autograd.grad(value, outputs)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_single_precision_keeps_small_survival() -> None:
    """Where 1 - sigmoid(14) has lost its digits in float32, the loss has not."""
    outputs = torch.tensor([[14.0, 0.0, 0.0, 0.0]])
    value = made(NLL, alpha=0.0)(outputs, torch.tensor([0.5]), torch.tensor([0]))
    assert value.item() == pytest.approx(14 + np.log1p(np.exp(-14.0)), rel=1e-6)


@given(cases=rows(10), times=st.lists(st.floats(0, 20), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_without_a_curve_survival_is_linear_between_edges(cases: list[Row], times: list[float]) -> None:
    outputs = batch(cases)[0]
    loss = made(NLL)
    moments = torch.tensor(sorted(times), dtype=torch.float64)
    survival = loss.survival(outputs, moments)
    at_edges = np.pad(torch.sigmoid(-outputs).cumprod(dim=1).numpy(), ((0, 0), (1, 0)), constant_values=1)
    for row, curve in zip(survival.numpy(), at_edges, strict=True):
        np.testing.assert_allclose(row, np.interp(moments, EDGES, curve), atol=1e-12)
    single = loss.survival(outputs.float(), moments)
    assert single.dtype == torch.float32
    assert ((single >= 0) & (single <= 1)).all()
    assert (single.diff(dim=1) <= 0).all()


def test_risk_is_minus_the_sum_of_survival_at_the_edges() -> None:
    outputs = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = made(CE)
    torch.testing.assert_close(loss.risk(outputs), -loss.survival(outputs, EDGES[1:]).sum(dim=1))


@st.composite
def follow_ups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Times with ties and censoring, with at least two distinct event times."""
    cases = draw(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=2, max_size=40))
    time, event = torch.tensor([float(t) for t, _ in cases]), torch.tensor([float(e) for _, e in cases])
    assume(len(torch.unique(time[event == 1])) >= 2)
    return time, event


@KINDS
@given(cases=follow_ups(), alpha=st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=60, deadline=None)
def test_the_best_constant_model_is_kaplan_meier_at_every_time(
    kind: type[DiscreteTime], cases: tuple[Tensor, Tensor], alpha: float
) -> None:
    loss = kind(kind.Config(bins=2, alpha=alpha))
    loss.fit(*cases)
    best = loss.constant_outputs(*cases)
    times = torch.arange(0, 14, 0.25, dtype=torch.float64)
    curve = KaplanMeierFitter().fit(*(part.numpy() for part in cases)).predict(times.numpy())
    survival = loss.survival(best.expand(3, -1), times)
    np.testing.assert_allclose(survival, np.tile(curve, (3, 1)), atol=1e-12)


@KINDS
@given(cases=follow_ups(), scale=st.sampled_from([1.0, 10.0, 1000.0]), dtype=st.sampled_from([32, 64]))
@settings(max_examples=60, deadline=None)
def test_survival_is_a_survival_function_for_any_output(
    kind: type[DiscreteTime], cases: tuple[Tensor, Tensor], scale: float, dtype: int
) -> None:
    loss = kind(kind.Config(bins=2))
    loss.fit(*cases)
    outputs = scale * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    survival = loss.survival(outputs.to(getattr(torch, f"float{dtype}")), torch.arange(0, 14, 0.25))
    assert survival.dtype == getattr(torch, f"float{dtype}")
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (survival.diff(dim=1) <= 0).all()
    assert (survival[:, 0] == 1).all()


@given(cases=follow_ups(), alpha=st.sampled_from([0.0, 0.2]))
@settings(max_examples=40, deadline=None)
def test_constant_outputs_are_the_weighted_shares_of_events(
    cases: tuple[Tensor, Tensor], alpha: float
) -> None:
    """``nll`` separates into binomial likelihoods, in which a censored case weighs 1 - alpha."""
    time, event = cases
    loss = NLL(NLL.Config(bins=2, alpha=alpha))
    loss.fit(time, event)
    label = loss.labels(time)
    for k, output in enumerate(loss.constant_outputs(time, event).tolist()):
        deaths = float(((label == k) & (event == 1)).sum())
        past = float(((label > k) & (event == 1)).sum())
        past += (1 - alpha) * float(((label >= k) & (event == 0)).sum())
        share = deaths / (deaths + past)
        assert 1 / (1 + np.exp(-output)) == pytest.approx(share, abs=1e-3)


def test_constant_outputs_of_ce_are_those_of_another_optimiser() -> None:
    random = np.random.default_rng(2)
    time, event = torch.from_numpy(random.exponential(30, 150)), torch.from_numpy(random.random(150) < 0.6)
    loss = CE(CE.Config())
    loss.fit(time, event.double())

    def value(constant: np.ndarray) -> float:
        return float(loss(torch.from_numpy(constant).expand(150, -1), time, event.double()))

    found = minimize(value, np.zeros(4), method="Nelder-Mead", options={"fatol": 1e-12, "xatol": 1e-8})
    np.testing.assert_allclose(loss.constant_outputs(time, event.double()), found.x, atol=1e-3)


def test_hazards_in_a_bin_are_proportional_to_those_of_the_training_cases() -> None:
    time = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    loss = NLL(NLL.Config(bins=2, alpha=0.0))
    loss.fit(time, torch.tensor([1, 1, 0, 1, 1, 0]))
    assert loss.constant is not None
    twice = (F.softplus(loss.constant) * 2).expm1().log()
    survival = loss.survival(twice.unsqueeze(0), torch.tensor([0.5, 1.0, 2.5, 4.5, 9.0]))
    np.testing.assert_allclose(
        survival[0], np.array([1, 5 / 6, 4 / 6, 4 / 6 * 2 / 3, 4 / 6 * 1 / 3]) ** 2, rtol=1e-12
    )


def test_bins_are_pandas_quantiles() -> None:
    random = np.random.default_rng(1)
    time, event = random.exponential(30, 200), (random.random(200) < 0.6).astype(int)
    loss = NLL(NLL.Config(bins=5))
    loss.fit(torch.from_numpy(time), torch.from_numpy(event))
    _, quantiles = pd.qcut(time[event == 1], 5, retbins=True)
    edges = [0.0, *quantiles[1:-1], time.max()]
    assert loss.edges is not None
    np.testing.assert_allclose(loss.edges.numpy(), edges, rtol=1e-12)
    expected = pd.cut(time, [*edges[:-1], np.inf], right=False, labels=False)
    assert loss.labels(torch.from_numpy(time)).tolist() == expected.tolist()


def test_bins_close_below_and_the_last_takes_all_later_times() -> None:
    times = torch.tensor([0.5, 1.0, 2.4999, 2.5, 4.0, 9.0, 100.0])
    assert made(NLL).labels(times).tolist() == [0, 1, 1, 2, 3, 3, 3]


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=40), st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_every_bin_has_width_and_an_event_or_the_reason_is_given(
    cases: list[tuple[int, bool]], bins: int
) -> None:
    time, event = torch.tensor([t for t, _ in cases]), torch.tensor([int(e) for _, e in cases])
    loss = NLL(NLL.Config(bins=bins))
    distinct = len({t for t, e in cases if e})
    if distinct < bins:
        with pytest.raises(
            MilsurvError, match=f"only {distinct} distinct" if distinct else "no training case"
        ):
            loss.fit(time, event)
        return
    loss.fit(time, event)
    assert loss.edges is not None
    edges = loss.edges.tolist()
    assert len(edges) == bins + 1
    assert edges[0] == 0
    assert edges[-1] == time.max()
    assert all(lower < upper for lower, upper in pairwise(edges))
    assert set(loss.labels(time[event == 1]).tolist()) == set(range(bins))


def test_state_predicts_elsewhere() -> None:
    loss, copy = NLL(NLL.Config(bins=2)), NLL(NLL.Config())
    loss.fit(torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([1, 1, 1, 0]))
    copy.load_state_dict(loss.state_dict())
    outputs, times = torch.randn(3, 2), torch.tensor([0.5, 2.0, 4.0])
    assert copy.n_outputs == 2
    assert torch.equal(copy.survival(outputs, times), loss.survival(outputs, times))


def test_unfitted_loss_says_so() -> None:
    with pytest.raises(MilsurvError, match="call fit"):
        NLL(NLL.Config()).survival(torch.zeros(1, 4), torch.ones(1))
