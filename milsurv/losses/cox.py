"""Cox's partial likelihood."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from milsurv.errors import MilsurvError
from milsurv.losses.base import Loss
from milsurv.plugin.base import PluginConfig


class CoxConfig(PluginConfig):
    """Settings of the Cox loss."""

    ties: Literal["efron", "breslow"] = "efron"
    """Handling of tied event times."""


class Cox(Loss):
    """Negative log partial likelihood, mean over events (Cox 1972; ties: Efron 1977 or Breslow 1974).

    The single output is the log-hazard. A case is at risk up to and including its time, so a censored case is at
    risk for an event at the same time. Survival is ``exp(-H0(t) · exp(log-hazard))`` with Breslow's cumulative
    hazard ``H0(t) = Σ_{t_j ≤ t} d_j / Σ_{at risk at t_j} exp(log-hazard)``.
    """

    Config = CoxConfig
    couples_cases: ClassVar[bool] = True

    def __init__(self, config: CoxConfig):
        self.ties = config.ties
        self.n_outputs = 1
        self.event_times: Tensor | None = None
        """Distinct event times of training cases, ascending, float64; None before :meth:`fit_baseline`."""
        self.log_cumulative_hazard: Tensor | None = None
        """``log H0`` at each of them, float64: finite where H0 itself would overflow."""

    def fit(self, time: Tensor, event: Tensor) -> None:  # noqa: ARG002
        """Fits nothing. Raises MilsurvError if no training case has an event."""
        _require_events(event)

    def __call__(self, outputs: Tensor, time: Tensor, event: Tensor, strata: Tensor | None = None) -> Tensor:
        """Mean over events; zero with a gradient of zeros if there are no events.

        Cases of different ``strata``, ``(n,)`` of any type, are in different risk sets.
        """
        log_hazard, observed = outputs.squeeze(-1), event == 1
        if not observed.any():
            return log_hazard.sum() * 0
        if strata is None:
            total = self._log_likelihood(log_hazard, time, observed)
        else:
            members = [strata == stratum for stratum in torch.unique(strata)]
            sums = [self._log_likelihood(log_hazard[m], time[m], observed[m]) for m in members]
            total = torch.stack(sums).sum()
        return -total / observed.sum()

    def _log_likelihood(self, log_hazard: Tensor, time: Tensor, observed: Tensor) -> Tensor:
        events = _EventTimes(log_hazard, time, observed)
        if self.ties == "breslow":
            log_denominator = torch.logaddexp(events.log_others, events.log_dying)[events.group]
        else:
            left = 1 - events.rank / events.count[events.group]
            log_denominator = torch.logaddexp(
                events.log_others[events.group], events.log_dying[events.group] + left.log()
            )
        return (log_hazard[observed].sum() - log_denominator.sum()).to(log_hazard.dtype)

    def risk(self, outputs: Tensor) -> Tensor:
        """The log-hazard."""
        return outputs.squeeze(-1)

    def fit_baseline(self, outputs: Tensor, time: Tensor, event: Tensor) -> None:
        """Breslow's cumulative baseline hazard of the training cases."""
        _require_events(event)
        log_hazard = outputs.detach().double().cpu().squeeze(-1)
        events = _EventTimes(log_hazard, time.double().cpu(), event.cpu() == 1)
        log_at_risk = torch.logaddexp(events.log_others, events.log_dying)
        self.event_times = events.time.flip(0)
        self.log_cumulative_hazard = (events.count.log() - log_at_risk).flip(0).logcumsumexp(0)

    def survival(self, outputs: Tensor, times: Tensor) -> Tensor:
        """``exp(-H0(t) · exp(log-hazard))``: a step function with steps at the event times of the training cases."""
        if self.event_times is None or self.log_cumulative_hazard is None:
            raise MilsurvError("loss 'cox' has no baseline; call fit_baseline(…) on the training cases first")
        event_times = self.event_times.to(outputs.device)
        steps = self.log_cumulative_hazard.to(outputs.device)
        log_hazard_until = torch.cat([steps.new_full((1,), -torch.inf), steps])
        index = torch.searchsorted(event_times, times.to(event_times).contiguous(), right=True)
        return (-(log_hazard_until[index] + outputs.double()).exp()).exp().to(outputs.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        if self.event_times is None or self.log_cumulative_hazard is None:
            return {}
        return {"event_times": self.event_times, "log_cumulative_hazard": self.log_cumulative_hazard}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.event_times = state.get("event_times")
        self.log_cumulative_hazard = state.get("log_cumulative_hazard")


class _EventTimes:
    """The distinct event times, latest first, with the logarithm of the summed hazards at each.

    Sums are computed in the log domain, separately for cases with the event at that time and others at risk, so that
    nothing is subtracted: accurate for log-hazards far apart.
    """

    def __init__(self, log_hazard: Tensor, time: Tensor, observed: Tensor):
        # Latest first; at equal times, censored cases before events.
        order = torch.argsort(observed.to(torch.uint8), stable=True)
        order = order[torch.argsort(time[order], stable=True, descending=True)]
        log_hazard, observed = log_hazard[order], observed[order]
        position = observed.nonzero().squeeze(-1)
        event_time = time[order][position]
        self.time, group, count = torch.unique_consecutive(
            event_time, return_inverse=True, return_counts=True
        )
        first = count.cumsum(0) - count
        self.group: Tensor = group
        """Index of the time of each event."""
        self.count: Tensor = count.to(log_hazard.dtype)
        """Number of events at each time."""
        rank = torch.arange(len(group), device=group.device) - first[group]
        self.rank: Tensor = rank.to(log_hazard.dtype)
        """0, 1, … for the events at the same time."""
        until = torch.cat([log_hazard.new_full((1,), -torch.inf), log_hazard.logcumsumexp(0)])
        self.log_others: Tensor = until[position[first]]
        """Log-sum over the cases at risk without the event at that time; -inf if there are none."""
        self.log_dying: Tensor = _grouped_logsumexp(log_hazard[position], group, len(count))
        """Log-sum over the cases with the event at that time."""


def _grouped_logsumexp(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    largest = values.new_full((n_groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    scaled = (values - largest[group]).exp()
    return largest + torch.zeros_like(largest).index_add(0, group, scaled).log()


def _require_events(event: Tensor) -> None:
    if not (event == 1).any():
        raise MilsurvError(
            "loss 'cox' needs events, but no training case has an event; use more cases or fewer folds"
        )
