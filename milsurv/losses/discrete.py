"""Discrete-time survival: follow-up time is divided into bins, with one hazard for each."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from milsurv.errors import MilsurvError
from milsurv.losses.base import Loss
from milsurv.plugin.base import PluginConfig

MIN_PROBABILITY = 1e-7
"""Lower limit of probabilities in logarithms, as in the released CrossFusion code."""


class DiscreteTimeConfig(PluginConfig):
    """Settings of the discrete-time losses."""

    bins: int = Field(default=4, ge=2, le=1000)
    """Number of time bins, cut at quantiles of the event times of the training cases."""
    alpha: float = Field(default=0.2, ge=0, le=1)
    """Extra weight of the uncensored cases: ``(1 - alpha) * loss + alpha * loss_uncensored``."""


class DiscreteTime(Loss):
    """Base of the discrete-time losses: bins, hazards, risk and survival.

    The outputs are one logit per bin: hazard ``h_k = sigmoid(logit_k)``, survival ``S_k = Π_{j ≤ k} (1 - h_j)`` at the
    upper edge of the bin. Bin k contains the times in ``[e_k, e_{k+1})`` with ``e_0 = 0``; the last edge is the longest
    follow-up of the training cases, and longer times belong to the last bin.

    Between edges, survival follows the training cases. With their Kaplan-Meier curve KM, the cumulative hazard
    ``λ_k = -log(1 - h_k)``, and ``λ⁰_k`` that of the best constant output (:meth:`constant_outputs`),
    ``S(t) = Π_k (KM(min(t, e_{k+1}-)) / KM(e_k-)) ** (λ_k / λ⁰_k)`` over the bins that have begun by t, where KM(e-) is
    the curve just before e. Hazards are thus proportional to those of the training cases within each bin, and the best
    constant output predicts KM at every time. Constant after the last edge.
    """

    Config = DiscreteTimeConfig

    def __init__(self, config: DiscreteTimeConfig):
        self.alpha = config.alpha
        self.n_outputs = config.bins
        self.edges: Tensor | None = None
        """``(bins + 1,)`` float64, from 0 to the longest follow-up; None before :meth:`fit`."""
        self.curve: tuple[Tensor, Tensor] | None = None
        """Distinct event times of the training cases, ascending, and their Kaplan-Meier survival at each, float64;
        None before :meth:`fit` and for models of older versions, whose survival is linear between edges."""
        self.constant: Tensor | None = None
        """:meth:`constant_outputs` of the training cases, ``(bins,)`` float64; None where ``curve`` is."""

    def fit(self, time: Tensor, event: Tensor) -> None:
        """Compute bin edges, curve and best constant. Raises MilsurvError if fewer distinct event times than bins."""
        time, event = time.detach().double().cpu(), event.detach().cpu()
        self.edges = cut_bins(time, time[event == 1], self.n_outputs)
        self.constant = self.constant_outputs(time, event)
        self.curve = kaplan_meier(time, event)

    def fit_baseline(self, outputs: Tensor, time: Tensor, event: Tensor) -> None:  # noqa: ARG002
        """Take the curve from these cases: those of training, if the rows of the loss are slides."""
        self.curve = kaplan_meier(time.detach().double().cpu(), event.detach().cpu())

    def labels(self, time: Tensor) -> Tensor:
        """The bin of each follow-up time: ``(n,)`` int64."""
        return _bin_of(time.double(), self._fitted_edges(time.device))

    def __call__(self, outputs: Tensor, time: Tensor, event: Tensor) -> Tensor:
        log_hazard = F.logsigmoid(outputs)
        log_survival = F.logsigmoid(-outputs).cumsum(dim=-1)
        label = self.labels(time).unsqueeze(-1)
        log_hazard_at = log_hazard.gather(-1, label).squeeze(-1)
        log_survival_at = log_survival.gather(-1, label).squeeze(-1)
        log_survival_before = F.pad(log_survival, (1, 0)).gather(-1, label).squeeze(-1)
        return self.case_losses(log_hazard_at, log_survival_before, log_survival_at, event.to(outputs)).mean()

    @abstractmethod
    def case_losses(
        self, log_hazard: Tensor, log_survival_before: Tensor, log_survival: Tensor, event: Tensor
    ) -> Tensor:
        """Loss of each case, ``(n,)``, from ``log h_y``, ``log S_{y-1}`` and ``log S_y`` of its bin y."""

    def risk(self, outputs: Tensor) -> Tensor:
        """``-Σ_k S_k``: minus the expected number of bin edges survived."""
        return -_survival_at_edges(outputs).sum(dim=-1)

    def survival(self, outputs: Tensor, times: Tensor) -> Tensor:
        """Survival along the curve of the training cases, see the class; linear between edges if it is unknown."""
        edges = self._fitted_edges(outputs.device)
        times = times.to(edges)
        if self.curve is None or self.constant is None:
            return _linear_survival(outputs, times, edges)
        moments, curve = (part.to(edges) for part in self.curve)
        curve = F.pad(curve, (1, 0), value=1.0)
        before = curve[torch.searchsorted(moments, edges)]  # the last edge belongs to the last bin
        after = torch.cat([before[1:-1], curve[-1:]])
        ratio = F.softplus(outputs.double()) / F.softplus(self.constant.to(edges))
        until = F.pad(torch.special.xlogy(ratio, after / before[:-1]).cumsum(dim=-1), (1, 0))
        index = _bin_of(times, edges)
        within = curve[torch.searchsorted(moments, times.contiguous(), right=True)] / before[index]
        log_survival = until[:, index] + torch.special.xlogy(ratio[:, index], within)
        return torch.maximum(log_survival, until[:, index + 1]).exp().to(outputs.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        if self.edges is None:
            return {}
        if self.curve is None or self.constant is None:
            return {"edges": self.edges}
        moments, curve = self.curve
        return {"edges": self.edges, "event_times": moments, "kaplan_meier": curve, "constant": self.constant}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.edges = state.get("edges")
        if self.edges is not None:
            self.n_outputs = len(self.edges) - 1
        self.constant = state.get("constant")
        self.curve = None if self.constant is None else (state["event_times"], state["kaplan_meier"])

    def _fitted_edges(self, device: torch.device) -> Tensor:
        if self.edges is None:
            raise MilsurvError("the loss is not fitted; call fit(time, event) on the training cases first")
        return self.edges.to(device)


class NLL(DiscreteTime):
    """Negative log-likelihood of discrete-time hazards (Zadeh and Schmid, IEEE TPAMI 2021).

    With ``L_u = -event · (log S_{y-1} + log h_y)`` and ``L_c = -(1 - event) · log S_y`` the loss of a case
    is ``(1 - α) · (L_c + L_u) + α · L_u``. Probabilities below 1e-7 count as 1e-7. Logarithms are computed with
    log-sigmoids, which is accurate for hazards near 0 and 1.
    """

    def case_losses(
        self, log_hazard: Tensor, log_survival_before: Tensor, log_survival: Tensor, event: Tensor
    ) -> Tensor:
        uncensored = -_uncensored_log_likelihood(_floored(log_hazard), _floored(log_survival_before), event)
        censored = -(1 - event) * _floored(log_survival)
        return (1 - self.alpha) * censored + uncensored


class CE(DiscreteTime):
    """Cross-entropy between survival at the end of a case's bin and its event (Zadeh and Schmid, 2021).

    With ``E = -(1 - event) · log S_y - event · log(1 - S_y)`` and
    ``L_u = -event · (log(S_{y-1} + 1e-7) + log h_y)`` the loss of a case is ``(1 - α) · E + α · L_u``. Other
    probabilities below 1e-7 count as 1e-7.
    """

    def case_losses(
        self, log_hazard: Tensor, log_survival_before: Tensor, log_survival: Tensor, event: Tensor
    ) -> Tensor:
        log_death = (-log_survival.expm1()).clamp_min(MIN_PROBABILITY).log()
        entropy = -(1 - event) * _floored(log_survival) - event * log_death
        log_alive_before = (log_survival_before.exp() + MIN_PROBABILITY).log()
        uncensored = -_uncensored_log_likelihood(_floored(log_hazard), log_alive_before, event)
        return (1 - self.alpha) * entropy + self.alpha * uncensored


def _uncensored_log_likelihood(log_hazard: Tensor, log_survival_before: Tensor, event: Tensor) -> Tensor:
    """``event · (log S_{y-1} + log h_y)``: log-likelihood of observed events, 0 for censored cases."""
    return event * (log_survival_before + log_hazard)


def _floored(log_probability: Tensor) -> Tensor:
    """``log max(p, 1e-7)`` of ``log p``."""
    return log_probability.clamp_min(math.log(MIN_PROBABILITY))


def cut_bins(time: Tensor, event_times: Tensor, bins: int) -> Tensor:
    """Bin edges, ``(bins + 1,)``: 0, quantiles of the event times, the longest follow-up.

    If ties would give a bin without width or without events, the quantiles are those of the distinct event times.
    """
    distinct = torch.unique(event_times)
    if len(distinct) == 0:
        raise MilsurvError(
            "follow-up cannot be divided into bins: no training case has an event; use more cases"
        )
    if len(distinct) < bins:
        fewer = f"set loss.bins to {len(distinct)} or less, " if len(distinct) > 1 else ""
        raise MilsurvError(
            f"follow-up cannot be divided into {bins} bins: the training cases have only {len(distinct)} distinct "
            f"event time{'s' if len(distinct) > 1 else ''}; {fewer}use more cases or loss 'cox'"
        )
    edges = _edges_at_quantiles(time, event_times, bins)
    if (edges.diff() <= 0).any() or len(torch.unique(_bin_of(event_times, edges))) < bins:
        edges = _edges_at_quantiles(time, distinct, bins)
    return edges


def _edges_at_quantiles(time: Tensor, event_times: Tensor, bins: int) -> Tensor:
    inner = event_times.quantile(torch.arange(1, bins, dtype=event_times.dtype) / bins)
    return torch.cat([inner.new_zeros(1), inner, time.max().reshape(1)])


def _bin_of(times: Tensor, edges: Tensor) -> Tensor:
    return torch.searchsorted(edges[1:-1].contiguous(), times.contiguous(), right=True)


def kaplan_meier(time: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct event times ``(k,)``, ascending, and the Kaplan-Meier survival after each ``(k,)``, both float64."""
    time = time.double()
    moments, deaths = torch.unique(time[event == 1], return_counts=True)
    at_risk = len(time) - torch.searchsorted(time.sort().values, moments)
    return moments, (1 - deaths / at_risk.double()).cumprod(0)


def _linear_survival(outputs: Tensor, times: Tensor, edges: Tensor) -> Tensor:
    """Survival ``(n, k)``, linear between bin edges, 1 at time 0, constant after the last edge."""
    at_edges = F.pad(_survival_at_edges(outputs), (1, 0), value=1.0)
    index = _bin_of(times, edges)
    share = ((times - edges[index]) / (edges[index + 1] - edges[index])).clamp(0, 1).to(outputs.dtype)
    before, after = at_edges[:, index], at_edges[:, index + 1]
    return torch.maximum(before - share * (before - after), after)


def _survival_at_edges(outputs: Tensor) -> Tensor:
    return torch.sigmoid(-outputs).cumprod(dim=-1)
