"""Ridge-penalised Cox regression on the principal components of features, in float64.

Everything is fitted on the cases that are given. Ties: Breslow (Biometrics 30 (1974) 89), whose risk sets are sums over
all cases with at least the event's time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from milsurv.errors import MilsurvError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

COMPONENTS = (1, 2, 3, 5, 8, 13, 21, 34)
"""Numbers of components to choose from; larger ones than the cases allow are left out."""
PENALTIES = (100.0, 10.0, 1.0, 0.1)
"""Ridge penalties to choose from, of the coefficients of scores whose first component has unit variance."""
INNER_FOLDS = 5
POWER_ITERATIONS = 4
"""Of the randomised singular value decomposition: Halko, Martinsson and Tropp, SIAM Review 53 (2011) 217."""
MAX_NEWTON_STEPS = 50
MAX_HALVINGS = 30
TOLERANCE = 1e-9
"""Newton's method stops when a step can increase the log-likelihood by less than this."""
SMALLEST_DEVIATION = 1e-6
"""Features and components that vary less are taken as constant."""
LEAST_SHARE = 0.1
"""Least standard deviation that a feature is divided by, as a share of the features' median. A feature that hardly
varies in the cases of the fit could otherwise be hundreds of deviations from its mean in others."""


@dataclass(frozen=True)
class ComponentsCox:
    """A fitted model, folded into one linear map: ``risk = features @ weights + intercept``."""

    weights: FloatArray
    """``(p,)``."""
    intercept: float
    """Makes the mean risk of the cases 0."""
    cross_fitted: FloatArray
    """``(n,)``: risk of each case by a model of the other inner folds, with the same components and penalty."""
    components: int
    penalty: float

    def risk(self, features: FloatArray) -> FloatArray:
        """``(n, p)`` -> ``(n,)``."""
        return features @ self.weights + self.intercept


def fit_components_cox(features: FloatArray, time: FloatArray, event: BoolArray, seed: int) -> ComponentsCox:
    """Fit the model to ``features (n, p)`` of cases with follow-up ``time (n,)`` and ``event (n,)``.

    The number of components and the penalty maximise the cross-validated partial log-likelihood, the sum over inner
    folds of ``l(β without the fold; all cases) - l(β without the fold; cases without the fold)`` (Verweij and van
    Houwelingen, Statistics in Medicine 12 (1993) 2305). Standardisation and components are fitted anew without each
    fold. Inner folds are drawn with ``seed``, stratified by event.

    Raises MilsurvError if there are fewer than three cases, or no event.
    """
    if len(time) < 3 or not event.any():
        raise MilsurvError(
            f"a Cox model of mean features needs at least 3 cases and an event; there are {len(time)} cases and "
            f"{int(event.sum())} events"
        )
    fold = _inner_folds(event, seed)
    held_out = [fold == index for index in range(fold.max() + 1)]
    fewest = min(int((~held).sum()) for held in held_out)
    most = max(1, min(fewest - 1, features.shape[1]))
    grid = list(product([k for k in COMPONENTS if k <= most], PENALTIES))
    cases = _RiskSets(time, event)
    likelihood = np.zeros(len(grid))
    cross_fitted = np.zeros((len(grid), len(time)))
    for index, held in enumerate(held_out):
        rest = _RiskSets(time[~held], event[~held])
        projection = _Projection.of(features[~held], grid[-1][0], seed + index)
        scores = projection(features)
        for place, coefficients in enumerate(_path(rest, scores[~held], grid)):
            risk = scores[:, : len(coefficients)] @ coefficients
            likelihood[place] += cases.log_likelihood(risk) - rest.log_likelihood(risk[~held])
            cross_fitted[place, held] = risk[held]
    best = int(np.argmax(likelihood))
    components, penalty = grid[best]
    projection = _Projection.of(features, components, seed)
    coefficients = cases.fit(projection(features), penalty)
    weights = projection.axes @ coefficients
    return ComponentsCox(weights, float(-projection.mean @ weights), cross_fitted[best], components, penalty)


def penalized_cox(covariates: FloatArray, time: FloatArray, event: BoolArray, penalty: float) -> FloatArray:
    """The coefficients ``(k,)`` that maximise ``log partial likelihood - penalty / 2 · |coefficients|²``."""
    return _RiskSets(time, event).fit(covariates, penalty)


def partial_log_likelihood(risk: FloatArray, time: FloatArray, event: BoolArray) -> float:
    """Cox's log partial likelihood of log-hazards ``risk (n,)``; -inf where it is below the range of floats."""
    return _RiskSets(time, event).log_likelihood(risk)


def _inner_folds(event: BoolArray, seed: int) -> npt.NDArray[np.intp]:
    """``(n,)`` the inner fold of each case."""
    order = np.random.default_rng(seed).permutation(len(event))
    order = order[np.argsort(event[order], kind="stable")]
    fold = np.empty(len(event), dtype=np.intp)
    fold[order] = np.arange(len(event)) % INNER_FOLDS
    return fold


def _path(cases: _RiskSets, scores: FloatArray, grid: list[tuple[int, float]]) -> Iterator[FloatArray]:
    """The coefficients for each number of components and penalty, each fit starting from the one before."""
    coefficients = np.zeros(0)
    for components, penalty in grid:
        start = np.zeros(components)
        start[: len(coefficients)] = coefficients
        coefficients = cases.fit(scores[:, :components], penalty, start)
        yield coefficients


@dataclass(frozen=True)
class _Projection:
    """Standardises features and projects them onto principal components, the first of which has unit variance."""

    mean: FloatArray
    """``(p,)``."""
    axes: FloatArray
    """``(p, k)``, divided by the features' standard deviations, or by the least one."""

    @classmethod
    def of(cls, features: FloatArray, components: int, seed: int) -> _Projection:
        mean, deviation = features.mean(0), features.std(0)
        varies = deviation > SMALLEST_DEVIATION
        least = LEAST_SHARE * np.median(deviation[varies]) if varies.any() else 1.0
        inverse = np.where(varies, 1 / np.maximum(deviation, least), 0.0)
        standardized = torch.from_numpy(((features - mean) * inverse).astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            most = min(standardized.shape)
            _, values, axes = torch.svd_lowrank(
                standardized, q=min(most, 2 * components + 10), niter=POWER_ITERATIONS
            )
        largest = float(values[0]) / len(features) ** 0.5
        scale = 1 / largest if largest > SMALLEST_DEVIATION else 0.0
        return cls(mean, axes[:, :components].double().numpy() * inverse[:, None] * scale)

    def __call__(self, features: FloatArray) -> FloatArray:
        """``(n, p)`` -> ``(n, k)``."""
        return (features - self.mean) @ self.axes


class _RiskSets:
    """Cases in the order of their time, latest first, with the risk set of each distinct event time."""

    def __init__(self, time: FloatArray, event: BoolArray):
        self._order = np.argsort(-time, kind="stable")
        time, self._event = time[self._order], event[self._order]
        distinct, count = np.unique(-time[self._event], return_counts=True)
        self._count = count.astype(float)
        """Events at each distinct event time, latest first."""
        self._last = np.searchsorted(-time, distinct, side="right") - 1
        """The last case that is at risk at each of them."""
        self._from = np.searchsorted(distinct, -time, side="left")
        """For each case, the first (latest) event time at which it is at risk."""

    def log_likelihood(self, risk: FloatArray) -> float:
        """Of log-hazards ``risk (n,)``."""
        return self._log_likelihood(risk[self._order])[0]

    def _log_likelihood(self, risk: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The value, the hazards relative to the largest, and their sums over the risk sets."""
        highest = risk.max()
        hazard = np.exp(risk - highest)
        at_risk = np.cumsum(hazard)[self._last]
        with np.errstate(divide="ignore"):
            value = (risk[self._event] - highest).sum() - self._count @ np.log(at_risk)
        return float(value), hazard, at_risk

    def fit(self, covariates: FloatArray, penalty: float, start: FloatArray | None = None) -> FloatArray:
        """Newton's method with step halving on the penalised log partial likelihood of ``covariates (n, k)``."""
        covariates = covariates[self._order]
        coefficients = np.zeros(covariates.shape[1]) if start is None else start
        value, gradient, information = self._derivatives(covariates, coefficients, penalty)
        for _ in range(MAX_NEWTON_STEPS):
            step = np.linalg.solve(information, gradient)
            if step @ gradient < TOLERANCE:
                break
            for _ in range(MAX_HALVINGS):
                new = self._derivatives(covariates, coefficients + step, penalty)
                if new[0] >= value:
                    break
                step = step / 2
            else:
                break
            coefficients, (value, gradient, information) = coefficients + step, new
        return coefficients

    def _derivatives(
        self, covariates: FloatArray, coefficients: FloatArray, penalty: float
    ) -> tuple[float, FloatArray, FloatArray]:
        """The penalised log-likelihood, its gradient ``(k,)`` and its negative Hessian ``(k, k)``.

        With x the covariates, h the hazards, H the cumulative baseline hazard at each case's time and m the mean of x
        in each risk set, weighted by h, the information is ``Σ_i h_i H_i x_i x_iᵀ - Σ_events m mᵀ``.
        """
        value, hazard, at_risk = self._log_likelihood(covariates @ coefficients)
        value -= penalty / 2 * float(coefficients @ coefficients)
        if not np.isfinite(value):
            return -np.inf, coefficients, np.eye(len(coefficients))
        steps = self._count / at_risk
        expected = hazard * np.append(np.cumsum(steps[::-1])[::-1], 0)[self._from]
        means = np.cumsum(covariates * hazard[:, None], axis=0)[self._last] / at_risk[:, None]
        gradient = covariates.T @ (self._event - expected) - penalty * coefficients
        information = (covariates * expected[:, None]).T @ covariates - (
            means * self._count[:, None]
        ).T @ means
        return value, gradient, information + penalty * np.eye(len(coefficients))
