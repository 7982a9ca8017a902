"""The times at which survival is predicted and evaluated, and the names of their columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from milsurv.config.run import Evaluation

SURVIVAL = "survival_at_"
"""Prefix of the predictions' columns of survival."""
INTEGRATION_POINTS = 20
SUPPORTED_SHARE_OF_EVENTS = 0.8
"""Quantile of the event times beyond which too few cases are followed for evaluation."""


@dataclass(frozen=True)
class EvaluationTimes:
    """Times in the cohort's unit, ascending, each once."""

    times: tuple[float, ...]
    """Times of AUC and Brier score."""
    integration: tuple[float, ...]
    """Regular grid over which AUC and Brier score are integrated; empty without events."""
    reason: str | None = None
    """Why there is no grid, and no times unless they are configured."""

    @property
    def all(self) -> tuple[float, ...]:
        """All times at which survival is predicted."""
        return tuple(sorted({*self.times, *self.integration}))


def evaluation_times(time: npt.ArrayLike, event: npt.ArrayLike, settings: Evaluation) -> EvaluationTimes:
    """The evaluation times, from ``time (n,)`` and ``event (n,)`` of the whole cohort, so that all folds use the same.

    ``times`` are those of the settings, by default the quartiles of the event times. The integration grid has 20
    times up to the 80th percentile of the event times. No model is fitted to them.
    """
    asked = tuple(sorted(set(settings.times or ())))
    event_times = np.asarray(time, dtype=float)[np.asarray(event) == 1]
    if not event_times.size:
        return EvaluationTimes(asked, (), "no events, so no evaluation times")
    quartiles = np.quantile(event_times, [0.25, 0.5, 0.75])
    last = np.quantile(event_times, SUPPORTED_SHARE_OF_EVENTS)
    grid = np.linspace(0, last, INTEGRATION_POINTS + 1)[1:]
    return EvaluationTimes(asked or _rounded(quartiles, 3), _rounded(grid, 6))


def time_text(t: float) -> str:
    """A time as in names: the shortest text with the same value."""
    short = f"{t:g}"
    return short if float(short) == t else repr(float(t))


def survival_column(t: float) -> str:
    """Name of the predictions' column of survival beyond ``t``, such as ``survival_at_12.5``."""
    return f"{SURVIVAL}{time_text(t)}"


def _rounded(times: npt.NDArray[np.float64], digits: int) -> tuple[float, ...]:
    return tuple(sorted({float(f"{t:.{digits}g}") for t in times}))
