"""Cross-entropy of discrete-time survival."""

from __future__ import annotations

from torch import Tensor

from milsurv.losses.discrete import MIN_PROBABILITY, DiscreteTime, floored, uncensored_log_likelihood


class CE(DiscreteTime):
    """Cross-entropy between survival at the end of a case's bin and what was seen (Zadeh and Schmid, 2021).

    With ``E = -(1 - event) · log S_y - event · log(1 - S_y)`` and
    ``L_u = -event · (log(S_{y-1} + 1e-7) + log h_y)`` a case's loss is ``(1 - α) · E + α · L_u``. Other
    probabilities below 1e-7 count as 1e-7.
    """

    def case_losses(
        self, log_hazard: Tensor, log_survival_before: Tensor, log_survival: Tensor, event: Tensor
    ) -> Tensor:
        log_death = (-log_survival.expm1()).clamp_min(MIN_PROBABILITY).log()
        entropy = -(1 - event) * floored(log_survival) - event * log_death
        log_alive_before = (log_survival_before.exp() + MIN_PROBABILITY).log()
        uncensored = -uncensored_log_likelihood(floored(log_hazard), log_alive_before, event)
        return (1 - self.alpha) * entropy + self.alpha * uncensored
