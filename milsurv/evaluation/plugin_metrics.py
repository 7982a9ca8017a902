"""Metrics of plugins: loading, and definition by plain functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from milsurv.errors import PluginError
from milsurv.evaluation.intervals import BoolArray, FloatArray, NotComputableError
from milsurv.evaluation.metrics import METRICS, MetricSpec, definitions
from milsurv.evaluation.strata import Stratum, require_finite_risk
from milsurv.plugin.registry import Registry


def bootstrapped(
    function: Callable[[FloatArray, BoolArray, FloatArray], float],
) -> Callable[[Sequence[Stratum]], FloatArray]:
    """A `MetricSpec` function from ``function(time, event, risk) -> float``, each argument ``(n,)``.

    ``function`` is applied to each fold, since risks of different folds come from different models; the folds' values
    are averaged with their numbers of cases as weights. It is also applied to each bootstrap resample, in which cases
    may occur several times; resamples in which it raises or returns NaN are ignored.
    """

    def estimate(strata: Sequence[Stratum]) -> FloatArray:
        require_finite_risk(strata)
        total = np.zeros(len(strata[0].counts))
        for s in strata:
            for resample, counts in enumerate(s.counts):
                drawn = np.repeat(np.arange(len(counts)), counts.astype(int))
                try:
                    value = function(s.time[drawn], s.event[drawn], s.risk[drawn])
                except Exception:
                    if resample == 0:
                        raise
                    value = np.nan
                total[resample] += len(s.time) * value
        return total / sum(len(s.time) for s in strata)

    return estimate


def all_metrics(registry: Registry) -> tuple[MetricSpec, ...]:
    """The built-in metrics, then those of plugins (:func:`plugin_metrics`)."""
    return (*METRICS, *plugin_metrics(registry))


def plugin_metrics(registry: Registry) -> tuple[MetricSpec, ...]:
    """The metrics of installed plugins and local files.

    A metric that cannot be imported has no value, with the error as its reason. Raises PluginError when two plugins
    register the same name, or one that of a built-in metric.
    """
    return tuple(_load(registry, name) for name in registry.names("metric"))


def _load(registry: Registry, name: str) -> MetricSpec:
    description = registry.describe("metric", name)
    if name in definitions():
        raise PluginError(f"{description} has the name of a built-in metric; rename or uninstall it")
    try:
        spec = registry.load("metric", name)
        if not isinstance(spec, MetricSpec) or spec.name != name:
            raise PluginError(f"{description} must be a milsurv.MetricSpec with this name")
    except PluginError as error:
        return MetricSpec(name=name, title=name, function=partial(_fail, str(error)))
    return replace(spec, section="metrics", function=partial(_checked, description, spec.function))


def _fail(reason: str, *_: Any) -> FloatArray:
    raise NotComputableError(reason)


def _checked(
    description: str, function: Callable[..., FloatArray], strata: Sequence[Stratum], *arguments: Any
) -> FloatArray:
    try:
        values = np.asarray(function(strata, *arguments), dtype=float)
    except NotComputableError:
        raise
    except Exception as error:
        raise NotComputableError(f"{description} failed: {type(error).__name__}: {error}") from error
    expected = (len(strata[0].counts),)
    if values.shape != expected:
        raise NotComputableError(f"{description} returned an array of shape {values.shape}, not {expected}")
    if not np.isfinite(values[0]):
        raise NotComputableError(f"{description} returned {values[0]}")
    return values
