"""Cox against lifelines, scikit-survival and a slow version of the formulas in 60 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from torch import Tensor

from milsurv.errors import MilsurvError
from milsurv.losses.cox import Cox

Follow = list[tuple[float, int, int]]
"""Log-hazard, time, event of each case."""


def cox(ties: str = "efron") -> Cox:
    return Cox(Cox.Config.model_validate({"ties": ties}))


def tensors(cases: Follow, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    log_hazard, time, event = (torch.tensor(column, dtype=dtype) for column in zip(*cases, strict=True))
    return log_hazard.unsqueeze(-1), time, event


def value_and_gradient(loss: Cox, outputs: Tensor, time: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
    outputs = outputs.clone().requires_grad_()
    value = loss(outputs, time, event)
    (gradient,) = torch.autograd.grad(value, outputs)
    return value.detach(), gradient.squeeze(-1)


def slow(cases: Follow, ties: str) -> tuple[float, list[float]]:
    """Mean negative log partial likelihood over events and its gradient, term by term."""
    with localcontext() as context:
        context.prec = 60
        hazard = [Decimal(log_hazard).exp() for log_hazard, _, _ in cases]
        value, gradient, n_events = Decimal(0), [Decimal(0)] * len(cases), 0
        for moment in {time for _, time, event in cases if event}:
            dying = [i for i, (_, time, event) in enumerate(cases) if time == moment and event]
            at_risk = [i for i, (_, time, _) in enumerate(cases) if time >= moment]
            n_events += len(dying)
            for rank, i in enumerate(dying):
                gone = Decimal(rank) / len(dying) if ties == "efron" else Decimal(0)
                share = {j: hazard[j] * (1 - gone if j in dying else 1) for j in at_risk}
                denominator = sum(share.values(), Decimal(0))
                value -= Decimal(cases[i][0]) - denominator.ln()
                gradient[i] -= 1
                for j in at_risk:
                    gradient[j] += share[j] / denominator
        return float(value / n_events), [float(g / n_events) for g in gradient]


def follow_ups(largest: float) -> st.SearchStrategy[Follow]:
    case = st.tuples(st.floats(-largest, largest, width=32), st.integers(1, 6), st.integers(0, 1))
    return st.lists(case, min_size=1, max_size=14).filter(lambda cases: any(event for _, _, event in cases))


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@given(cases=follow_ups(100))
@settings(max_examples=150, deadline=None)
def test_equals_the_slow_version(ties: str, cases: Follow) -> None:
    value, gradient = value_and_gradient(cox(ties), *tensors(cases))
    expected_value, expected_gradient = slow(cases, ties)
    assert value.item() == pytest.approx(expected_value, rel=1e-12, abs=1e-12)
    assert gradient.tolist() == pytest.approx(expected_gradient, rel=1e-10, abs=1e-12)


@given(cases=follow_ups(100))
@settings(max_examples=60, deadline=None)
def test_single_precision_is_stable(cases: Follow) -> None:
    value, gradient = value_and_gradient(cox(), *tensors(cases, torch.float32))
    expected_value, expected_gradient = slow(cases, "efron")
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected_value, rel=1e-5, abs=1e-4)
    assert gradient.tolist() == pytest.approx(expected_gradient, rel=1e-3, abs=1e-5)


@given(cases=follow_ups(5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_row_order_does_not_matter(cases: Follow, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(cases))))
    value, gradient = value_and_gradient(cox(), *tensors(cases))
    shuffled_value, shuffled_gradient = value_and_gradient(cox(), *tensors([cases[i] for i in order]))
    torch.testing.assert_close(value, shuffled_value)
    torch.testing.assert_close(gradient[list(order)], shuffled_gradient)


def test_censored_at_the_time_of_an_event_is_at_risk() -> None:
    cases: Follow = [(0.0, 2, 1), (3.0, 2, 0)]
    for rows in (cases, cases[::-1]):
        assert cox()(*tensors(rows)).item() == pytest.approx(np.log(1 + np.exp(3)))


@pytest.mark.parametrize("cases", [[(2.5, 3, 1)], [(1.0, 3, 0), (-1.0, 4, 0)]])
def test_one_case_or_no_event_gives_a_zero_on_the_graph(cases: Follow) -> None:
    value, gradient = value_and_gradient(cox(), *tensors(cases))
    assert value.item() == 0
    assert gradient.tolist() == [0] * len(cases)


def test_strata_never_share_a_risk_set() -> None:
    first: Follow = [(0.3, 1, 1), (-0.4, 2, 1), (1.0, 2, 0)]
    second: Follow = [(0.9, 1, 0), (-1.2, 1, 1), (0.1, 5, 1)]
    together = cox()(*tensors(first + second), strata=torch.tensor([0, 0, 0, 1, 1, 1]))
    apart = (2 * cox()(*tensors(first)) + 2 * cox()(*tensors(second))) / 4
    torch.testing.assert_close(together, apart)


@pytest.fixture
def tied() -> pd.DataFrame:
    random = np.random.default_rng(3)
    x = random.normal(size=(150, 2))
    time = np.ceil(4 * random.exponential(np.exp(-x @ [0.8, -0.5])) + 0.01)
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": time, "event": random.random(150) < 0.7})


def fitted_linear(frame: pd.DataFrame, loss: Cox) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coefficients, outputs, times, events of the linear model with the lowest loss."""
    x = torch.from_numpy(frame[["a", "b"]].to_numpy())
    time, event = torch.from_numpy(frame.time.to_numpy()), torch.from_numpy(frame.event.to_numpy()).double()
    weight = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(x @ weight, time, event)
        torch.autograd.backward(value)
        return value.item()

    optimizer.step(closure)
    return weight.detach().squeeze(), (x @ weight).detach(), time, event


def test_linear_model_equals_lifelines(tied: pd.DataFrame) -> None:
    loss = cox()
    weight, outputs, time, event = fitted_linear(tied, loss)
    other = CoxPHFitter().fit(tied, "time", "event", fit_options={"precision": 1e-12})
    assert weight.tolist() == pytest.approx(other.params_.tolist(), abs=1e-6)
    assert -(loss(outputs, time, event) * event.sum()).item() == pytest.approx(
        other.log_likelihood_, rel=1e-9
    )


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_linear_model_and_survival_equal_scikit_survival(tied: pd.DataFrame, ties: str) -> None:
    loss = cox(ties)
    weight, outputs, time, event = fitted_linear(tied, loss)
    x, y = tied[["a", "b"]].to_numpy(), Surv.from_arrays(tied.event, tied.time)
    other = CoxPHSurvivalAnalysis(ties=ties, tol=1e-12).fit(x, y)
    assert weight.tolist() == pytest.approx(other.coef_.tolist(), abs=1e-6)

    loss.fit_baseline(outputs, time, event)
    moments = np.unique(tied.time)
    curves = np.stack([curve(moments) for curve in other.predict_survival_function(x)])
    survival = loss.survival(outputs, torch.from_numpy(moments))
    np.testing.assert_allclose(survival.numpy(), curves, atol=1e-6)


@given(cases=follow_ups(100))
@settings(max_examples=60, deadline=None)
def test_survival_is_a_survival_function_ordered_as_risk(cases: Follow) -> None:
    loss = cox()
    outputs, time, event = tensors(cases, torch.float32)
    loss.fit(time, event)
    loss.fit_baseline(outputs, time, event)
    survival = loss.survival(outputs, torch.arange(0, 8, 0.5))
    assert survival.dtype == torch.float32
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (survival[:, 0] == 1).all()
    assert (survival.diff(dim=1) <= 0).all()
    assert (survival[loss.risk(outputs).argsort()].diff(dim=0) <= 0).all()


def test_state_predicts_elsewhere(tied: pd.DataFrame) -> None:
    outputs = torch.from_numpy(tied[["a"]].to_numpy())
    loss, copy = cox(), cox()
    loss.fit_baseline(
        outputs, torch.from_numpy(tied.time.to_numpy()), torch.from_numpy(tied.event.to_numpy())
    )
    copy.load_state_dict(loss.state_dict())
    times = torch.tensor([1.0, 2.5, 90.0])
    assert torch.equal(copy.survival(outputs, times), loss.survival(outputs, times))


def test_wrong_use_is_named() -> None:
    with pytest.raises(MilsurvError, match="no training case has an event"):
        cox().fit(torch.ones(3), torch.zeros(3))
    with pytest.raises(MilsurvError, match="has no baseline"):
        cox().survival(torch.zeros(2, 1), torch.ones(1))
