"""Negative log-likelihood of discrete-time hazards."""

from __future__ import annotations

from torch import Tensor

from milsurv.losses.discrete import DiscreteTime, floored, uncensored_log_likelihood


class NLL(DiscreteTime):
    """Negative log-likelihood of discrete-time hazards (Zadeh and Schmid, IEEE TPAMI 2021).

    With ``L_u = -event · (log S_{y-1} + log h_y)`` and ``L_c = -(1 - event) · log S_y`` a case's loss is
    ``(1 - α) · (L_c + L_u) + α · L_u``. Probabilities below 1e-7 count as 1e-7. The logarithms come from
    log-sigmoids, so that hazards near 0 and 1 lose no precision.
    """

    def case_losses(
        self, log_hazard: Tensor, log_survival_before: Tensor, log_survival: Tensor, event: Tensor
    ) -> Tensor:
        uncensored = -uncensored_log_likelihood(floored(log_hazard), floored(log_survival_before), event)
        censored = -(1 - event) * floored(log_survival)
        return (1 - self.alpha) * censored + uncensored
