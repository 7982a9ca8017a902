"""Weighted pairs of cases, on which concordance is computed. Imports numpy only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from milsurv.evaluation.intervals import BoolArray, FloatArray

ROWS_AT_ONCE = 512


def c_index(time: npt.ArrayLike, event: npt.ArrayLike, risk: npt.ArrayLike) -> float:
    """Harrell's C of ``risk (n,)``, for monitoring a training; NaN without comparable pairs or finite risks.

    Defined at :func:`milsurv.evaluation.concordance.harrell_c_index`.
    """
    events, risks = np.asarray(event) == 1, np.asarray(risk, dtype=float)
    exits = exit_order(np.asarray(time, dtype=float), events)
    concordant, compared = concordance_sums(
        risks, exits, exits, events.astype(float), np.ones((1, len(risks)))
    )
    return float(concordant[0] / compared[0]) if compared[0] and np.isfinite(risks).all() else math.nan


def exit_order(time: FloatArray, event: BoolArray) -> npt.NDArray[np.intp]:
    """``(n,)`` ranks in which cases leave: events of one time together, then cases censored at that time."""
    rank = np.unique(time, return_inverse=True)[1]
    return np.asarray(2 * rank + ~event, dtype=np.intp)


def concordance_sums(
    risk: FloatArray,
    leaves: npt.NDArray[np.intp],
    outlives: npt.NDArray[np.intp],
    weight: FloatArray,
    counts: FloatArray,
) -> FloatArray:
    """Weights of concordant and of all pairs ``(i, j)`` with ``outlives[j] > leaves[i]``: ``(2, resamples)``.

    ``risk``, ``leaves``, ``outlives`` and ``weight`` are ``(n,)``. In each resample, a pair has the weight
    ``weight[i] * counts[r, i] * counts[r, j]``, with ``counts (resamples, n)``. A pair is concordant if i has the
    higher risk; equal risks count half.
    """
    sums = np.zeros((2, len(counts)))
    weighted = np.flatnonzero(weight)
    for start in range(0, len(weighted), ROWS_AT_ONCE):
        rows = weighted[start : start + ROWS_AT_ONCE]
        compared = (outlives > leaves[rows, None]).astype(float)
        concordant = compared * ((risk < risk[rows, None]) + 0.5 * (risk == risk[rows, None]))
        of_rows = counts[:, rows] * weight[rows]
        for total, pairs in zip(sums, (concordant, compared), strict=True):
            total += np.einsum("rj,rj->r", of_rows @ pairs, counts)
    return sums
