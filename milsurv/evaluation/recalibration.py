"""Recalibration of predicted survival: a proportional-hazards slope of the risk, and a baseline from Kaplan-Meier.

A network's own probabilities are too extreme where it has overfitted, and too low or high where its loss does not weigh
censored cases fully. Recalibrated survival is ``exp(-H0(t) · exp(slope · z))``, with z the risk standardised by the
training cases. It keeps the ranking of the risk, and is Kaplan-Meier where the risk tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from milsurv.losses.cox import Cox, CoxConfig
from milsurv.losses.discrete import kaplan_meier

MAX_SLOPE = 10.0
"""Bound of the slope, a hazard ratio of e¹⁰ per standard deviation, for cases that the risk orders without an error."""
HALVINGS = 60


@dataclass(frozen=True)
class HeldOutRisks:
    """Risks ``(n,)`` float64 of cases by models that were not trained on them, and the cases' follow-up."""

    risk: Tensor
    """Standardised by the training cases of the case's model."""
    time: Tensor
    event: Tensor
    model: Tensor
    """Number of the case's model; cases are compared only within models."""


@dataclass(frozen=True)
class Recalibration:
    """Survival as a function of a model's risk."""

    median: float
    deviation: float
    """Median and standard deviation of the risks of the model's training cases."""
    slope: float
    """Log-hazard ratio per standard deviation, at least 0."""
    event_times: Tensor
    """``(k,)`` float64, ascending."""
    log_cumulative_hazard: Tensor
    """``log H0`` at each of them: at the median risk."""

    @classmethod
    def fit(
        cls, held_out: HeldOutRisks | None, time: Tensor, event: Tensor, median: float, deviation: float
    ) -> Self:
        """From risks of held-out cases, and the follow-up ``time (n,)`` and ``event (n,)`` of all cases of the fold.

        The slope is :func:`shrunk_slope`. The baseline is the one for which the mean predicted survival of the held-out
        cases equals the Kaplan-Meier curve of all cases at each of its event times. None for ``held_out``: Kaplan-Meier
        for every case.
        """
        slope = 0.0 if held_out is None else shrunk_slope(held_out)
        event_times, curve = kaplan_meier(time, event)
        log_hazard = torch.zeros(1, dtype=torch.float64) if held_out is None else slope * held_out.risk
        return cls(median, deviation or 1.0, slope, event_times, _log_baseline(curve, log_hazard))

    def survival(self, risk: Tensor, times: Tensor) -> Tensor:
        """``(n,)``, ``(k,)`` -> ``(n, k)`` float64: a step function with steps at the event times."""
        baseline = Cox(CoxConfig())
        baseline.load_state_dict(
            {"event_times": self.event_times, "log_cumulative_hazard": self.log_cumulative_hazard}
        )
        log_hazard = self.slope * (risk.double() - self.median) / self.deviation
        return baseline.survival(log_hazard.unsqueeze(-1), times)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`from_state` restores it."""
        numbers = [self.median, self.deviation, self.slope]
        return {
            "median_deviation_slope": torch.tensor(numbers, dtype=torch.float64),
            "event_times": self.event_times,
            "log_cumulative_hazard": self.log_cumulative_hazard,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Restore what :meth:`state_dict` returned. Raises KeyError or ValueError if it is something else."""
        median, deviation, slope = state["median_deviation_slope"].tolist()
        return cls(median, deviation, slope, state["event_times"], state["log_cumulative_hazard"])


def shrunk_slope(held_out: HeldOutRisks) -> float:
    """Coefficient of the risk in a Cox model of the held-out cases, stratified by model, shrunk and at least 0.

    The maximum of the partial likelihood times ``(χ² - 1) / χ²``, with the likelihood-ratio statistic χ² (van
    Houwelingen and le Cessie, Statistics in Medicine 9 (1990) 1303); 0 if χ² is below 1.
    """
    cox, events = Cox(CoxConfig()), float((held_out.event == 1).sum())

    def loss(slope: Tensor) -> Tensor:
        outputs = (slope * held_out.risk).unsqueeze(-1)
        return cox(outputs, held_out.time, held_out.event, held_out.model) * events

    def falls_at(slope: float) -> bool:
        at = torch.tensor(slope, dtype=torch.float64, requires_grad=True)
        return bool(torch.autograd.grad(loss(at), at)[0] < 0)

    if not falls_at(0.0):
        return 0.0
    low, high = 0.0, MAX_SLOPE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falls_at(middle) else (low, middle)
    statistic = 2 * float(loss(torch.tensor(0.0)) - loss(torch.tensor(low, dtype=torch.float64)))
    return low * (1 - 1 / statistic) if statistic > 1 else 0.0


def _log_baseline(curve: Tensor, log_hazard: Tensor) -> Tensor:
    """``log H0 (k,)`` for which the mean of ``exp(-H0 · exp(log_hazard (n,)))`` is ``curve (k,)``, by bisection."""
    of_mean = (-curve.log()).log()
    low, high = of_mean - log_hazard.max(), of_mean - log_hazard.min()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        mean = (-(middle + log_hazard.unsqueeze(-1)).exp()).exp().mean(dim=0)
        low, high = torch.where(mean > curve, middle, low), torch.where(mean > curve, high, middle)
    return ((low + high) / 2).cummax(dim=0).values
