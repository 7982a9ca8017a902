"""Checks of losses (``milsurv.Loss``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from milsurv.losses.base import Loss
from milsurv.testing.contract import (
    Subject,
    config_round_trip,
    documented,
    equal,
    expect,
    finite,
    same_state,
    shown,
)

CASES = 40
EXTREME = 100.0
"""Size of the outputs of a diverged model: hazards of 0 and 1, log-hazards of a factor e¹⁰⁰."""
REPEATS = 64
ROUNDING = 1e-9
"""Relative and absolute tolerance for the order of float64 sums."""


@dataclass(frozen=True)
class FollowUp:
    """Outputs, follow-up times and events of some cases."""

    outputs: Tensor
    """``(n, n_outputs)`` float64."""
    time: Tensor
    event: Tensor

    def rows(self, index: Tensor) -> FollowUp:
        """The cases at ``index``, in that order."""
        return FollowUp(self.outputs[index], self.time[index], self.event[index])


@dataclass(frozen=True)
class LossSubject(Subject):
    """A loss to check."""

    def make(self) -> Loss:
        """A new instance, fitted on the cases of :meth:`follow_up`."""
        loss: Loss = self.plugin_class(self.config)
        time, event = _times(CASES, ties=False)
        loss.fit(time, event)
        return loss

    def follow_up(self, loss: Loss, *, n: int = CASES, ties: bool = False) -> FollowUp:
        """Random outputs, and times of which a third is censored; with ``ties`` only 5 distinct times."""
        generator = torch.Generator().manual_seed(1)
        outputs = torch.randn(n, loss.n_outputs, generator=generator, dtype=torch.float64)
        return FollowUp(outputs, *_times(n, ties=ties))


def _times(n: int, *, ties: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    time = torch.rand(n, generator=generator, dtype=torch.float64) * 50 + 0.5
    event = torch.ones(n, dtype=torch.float64)
    event[2::3] = 0
    return (time / 10).ceil() * 10 if ties else time, event


def value_and_gradient(loss: Loss, cases: FollowUp, what: str) -> tuple[Tensor, Tensor]:
    """The loss, a scalar, and its gradient with respect to the outputs. Raises ContractError if one is not finite."""
    outputs = cases.outputs.clone().requires_grad_()
    value = loss(outputs, cases.time, cases.event)
    expect(value.shape == (), f"shape {tuple(value.shape)} for {what}", "a scalar")
    expect(value.requires_grad, f"a value without a graph for {what}", "one that backward() can be called on")
    (gradient,) = torch.autograd.grad(value, outputs, allow_unused=True)
    expect(gradient is not None, f"no gradient for {what}", "one for the outputs, even if it is zero")
    finite(value, what)
    finite(gradient, f"the gradient, {what}")
    return value.detach(), gradient


def row_order(subject: LossSubject) -> None:
    """The loss does not depend on the order of the cases."""
    _same_in_reverse(subject, ties=False)


def ties(subject: LossSubject) -> None:
    """Nor does it when several events and censored cases share a time."""
    _same_in_reverse(subject, ties=True)


def _same_in_reverse(subject: LossSubject, *, ties: bool) -> None:
    loss = subject.make()
    cases = subject.follow_up(loss, ties=ties)
    order = torch.randperm(CASES, generator=torch.Generator().manual_seed(2))
    value, gradient = value_and_gradient(loss, cases, f"{CASES} cases")
    again, gradient_again = value_and_gradient(loss, cases.rows(order), f"{CASES} cases in another order")
    equal(again, value, "with the cases in another order", rtol=ROUNDING, atol=ROUNDING)
    what = "as gradient with the cases in another order"
    equal(gradient_again, gradient[order], what, rtol=ROUNDING, atol=ROUNDING)


def all_censored(subject: LossSubject) -> None:
    """A batch without events gives a finite loss that is connected to the graph."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    value_and_gradient(loss, FollowUp(cases.outputs, cases.time, cases.event * 0), "a batch without events")


def one_case(subject: LossSubject) -> None:
    """A batch of one case, with an event or censored, gives a finite loss that is connected to the graph."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    for row, name in ((0, "one case with an event"), (2, "one censored case")):
        value_and_gradient(loss, cases.rows(torch.tensor([row])), name)


def extreme_outputs(subject: LossSubject) -> None:
    """Outputs of ±100, in float32 too, give a finite loss, gradient and risk, and survival in [0, 1]."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    for dtype in (torch.float64, torch.float32):
        outputs = (EXTREME * cases.outputs.sign()).to(dtype)
        time, event = cases.time.to(dtype), cases.event.to(dtype)
        value_and_gradient(loss, FollowUp(outputs, time, event), f"outputs of ±{EXTREME:g} in {dtype}")
        finite(loss.risk(outputs), f"the risk of outputs of ±{EXTREME:g}")
        loss.fit_baseline(outputs, time, event)
        _require_survival(loss.survival(outputs, _grid()), f"outputs of ±{EXTREME:g} in {dtype}")


def mean_reduction(subject: LossSubject) -> None:
    """The loss is a mean over cases; a loss that couples cases does not grow with their number."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    value, _ = value_and_gradient(loss, cases, f"{CASES} cases")
    if not loss.couples_cases:
        rows = [cases.rows(torch.tensor([row])) for row in range(CASES)]
        mean = torch.stack([loss(row.outputs, row.time, row.event) for row in rows]).mean()
        equal(value, mean, f"for {CASES} cases at once", rtol=ROUNDING, atol=ROUNDING)
        return
    many, _ = value_and_gradient(loss, cases.rows(torch.arange(CASES).repeat(REPEATS)), "the cases repeated")
    expect(
        bool(abs(many) <= REPEATS / 8 * (abs(value) + 1)),
        f"{many:.4g} for {REPEATS} copies of cases whose loss is {value:.4g}",
        "a mean over events or cases, which hardly changes when they are repeated",
    )


def constant_outputs(subject: LossSubject) -> None:
    """The best constant output is finite, and its loss is not higher than that of zeros."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    constant = loss.constant_outputs(cases.time, cases.event)
    shape = (loss.n_outputs,)
    expect(constant.shape == shape, f"constant outputs of shape {tuple(constant.shape)}", f"{shape}")
    finite(constant, "the constant outputs")
    rows = constant.to(cases.outputs).expand(CASES, -1)
    found, at_zeros = (loss(of, cases.time, cases.event) for of in (rows, torch.zeros_like(rows)))
    expect(
        bool(found <= at_zeros + ROUNDING), f"a loss of {found:.6g}", f"at most {at_zeros:.6g}, that of zeros"
    )


def survival_properties(subject: LossSubject) -> None:
    """Survival is ``(n, k)``, within [0, 1], 1 at time 0, and never increases with time."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    loss.fit_baseline(cases.outputs, cases.time, cases.event)
    _require_survival(loss.survival(cases.outputs, _grid()), "random outputs")


def _grid() -> Tensor:
    """Times from 0 to beyond the longest follow-up."""
    return torch.linspace(0, 80, 33, dtype=torch.float64)


def _require_survival(survival: Tensor, what: str) -> None:
    """Raise ContractError unless ``survival``, at the times of :func:`_grid`, is a survival function for each case."""
    shape = (CASES, len(_grid()))
    expect(survival.shape == shape, f"survival of shape {tuple(survival.shape)} for {what}", f"{shape}")
    finite(survival, f"survival, {what}")
    within = bool(((survival >= 0) & (survival <= 1)).all())
    expect(within, f"survival {shown(survival)} for {what}", "probabilities")
    expect(
        bool((survival.diff(dim=1) <= 0).all()), f"survival that increases for {what}", "one that never does"
    )
    first = survival[:, 0]
    expect(bool((first == 1).all()), f"survival {shown(first)} at time 0 for {what}", "1")


def higher_risk_is_worse(subject: LossSubject) -> None:
    """Higher risk means lower survival on average, and training gives early events a higher risk."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    loss.fit_baseline(cases.outputs, cases.time, cases.event)
    risk = loss.risk(cases.outputs)
    expect(risk.shape == (CASES,), f"risk of shape {tuple(risk.shape)}", f"({CASES},)")
    finite(risk, "the risk of random outputs")
    _decreases(loss.survival(cases.outputs, _grid()).mean(dim=1), risk, "mean survival")
    outputs = torch.zeros_like(cases.outputs).requires_grad_()
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(outputs, cases.time, cases.event).backward()
        optimizer.step()
    seen = cases.event == 1
    _decreases(cases.time[seen], loss.risk(outputs.detach())[seen], "the time of the event, after training,")


def _decreases(values: Tensor, risk: Tensor, what: str) -> None:
    ranks = torch.stack([x.argsort().argsort().double() for x in (values, risk)])
    correlation = float(torch.corrcoef(ranks)[0, 1])
    expect(
        correlation < -0.1, f"a rank correlation of {correlation:.2f} between risk and {what}", "one below 0"
    )


def state_round_trip(subject: LossSubject) -> None:
    """``state_dict`` holds everything fitted: a new instance that loads it predicts the same."""
    loss = subject.make()
    cases = subject.follow_up(loss)
    loss.fit_baseline(cases.outputs, cases.time, cases.event)
    state = loss.state_dict()
    expect(
        all(isinstance(value, Tensor) for value in state.values()), f"the state {state}", "tensors by name"
    )
    again: Loss = subject.plugin_class(subject.config)
    again.load_state_dict({name: value.clone() for name, value in state.items()})
    same_state(again.state_dict(), state, "after loading")
    equal(again.risk(cases.outputs), loss.risk(cases.outputs), "as risk after loading")
    survival = loss.survival(cases.outputs, _grid())
    equal(again.survival(cases.outputs, _grid()), survival, "as survival after loading")
    expect(
        again.n_outputs == loss.n_outputs, f"n_outputs {again.n_outputs} after loading", f"{loss.n_outputs}"
    )


CHECKS: tuple[Callable[[LossSubject], None], ...] = (
    documented,
    config_round_trip,
    row_order,
    ties,
    all_censored,
    one_case,
    extreme_outputs,
    mean_reduction,
    constant_outputs,
    survival_properties,
    higher_risk_is_worse,
    state_round_trip,
)
