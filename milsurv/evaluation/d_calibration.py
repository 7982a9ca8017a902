"""D-calibration: whether predicted survival at the time of death is uniformly distributed over [0, 1].

Haider et al., Journal of Machine Learning Research 21 (2020) 85, section 3.5 and its appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2

from milsurv.evaluation.intervals import BoolArray, FloatArray, NotComputableError, metric
from milsurv.evaluation.schema import DCalibration
from milsurv.evaluation.strata import Stratum, require_events, require_probabilities

BINS = 10
MIN_PER_BIN = 5
"""Expected cases per bin that the chi-square distribution requires (Cochran, Biometrics 10 (1954) 417)."""


def d_calibration(strata: Sequence[Stratum]) -> DCalibration:
    """Pearson's test of uniformity: ``value`` is its p-value, small when predictions are not calibrated.

    ``bins`` is the share of cases in each tenth of predicted survival from 0 to 1. All are None, with the reason, when
    there are too few cases or events; the test has no interval. Folds are pooled, since probabilities of different
    models are on one scale. Censored cases are spread evenly, so with many of them the test is conservative.
    """
    try:
        counts = sum(bin_counts(*survival_at_exit(s)) for s in _enough(strata))
    except NotComputableError as reason:
        none = metric(None, reason=str(reason))
        return {**none, "statistic": None, "degrees_of_freedom": None, "bins": None}
    expected = np.sum(counts) / BINS
    statistic = float(np.sum((counts - expected) ** 2) / expected)
    return {
        **metric(float(chi2.sf(statistic, BINS - 1))),
        "statistic": statistic,
        "degrees_of_freedom": BINS - 1,
        "bins": np.asarray(counts / np.sum(counts)).tolist(),
    }


def _enough(strata: Sequence[Stratum]) -> Sequence[Stratum]:
    require_events(strata)
    cases = sum(len(s.time) for s in strata)
    if cases < BINS * MIN_PER_BIN:
        raise NotComputableError(
            f"too few cases: {cases}, at least {BINS * MIN_PER_BIN} required ({BINS} bins of {MIN_PER_BIN})"
        )
    events = sum(int(s.event.sum()) for s in strata)
    if events < BINS:
        raise NotComputableError(f"too few events: {events}, at least {BINS} required")
    return strata


def survival_at_exit(stratum: Stratum) -> tuple[FloatArray, BoolArray]:
    """Each case's predicted survival at its own time, ``(n,)``, and whether it died there, ``(n,)``.

    Survival is predicted at the evaluation times only and interpolated linearly between them, from 1 at time 0. A case
    followed beyond the last of them is treated as censored there, since its survival is only known to be in
    ``[0, S(last)]``. Raises :class:`NotComputableError` when a survival is not a probability, or when there are no
    evaluation times.
    """
    if not stratum.survival:
        raise NotComputableError("no evaluation times, so no predicted survival")
    times = sorted(stratum.survival)
    survival = np.column_stack([stratum.survival[t] for t in times])
    require_probabilities(survival)
    knots = np.array([0.0, *times])
    at_exit = [
        np.interp(time, knots, [1.0, *curve]) for time, curve in zip(stratum.time, survival, strict=True)
    ]
    return np.array(at_exit), stratum.event & (stratum.time <= times[-1])


def bin_counts(survival: FloatArray, died: BoolArray) -> FloatArray:
    """Cases in each of the bins ``[k/10, (k + 1)/10)``, the last one closed: ``(10,)``, summing to n.

    A case that died counts in the bin of its survival ``(n,)``. One censored at survival s would have died at a
    survival that is uniform on ``[0, s]`` and is distributed over it: ``(s - k/10) / s`` to its own bin, and
    ``1 / 10s`` to each bin below (Haider et al. 2020, appendix B).
    """
    own = np.minimum((survival * BINS).astype(int), BINS - 1)
    counts = np.bincount(own[died], minlength=BINS).astype(float)
    edges = np.arange(BINS + 1) / BINS
    for s in survival[~died]:
        counts += np.diff(np.minimum(edges, s)) / s if s > 0 else np.eye(BINS)[0]
    return counts
