"""The table of metrics: their functions, and how and where they are shown.

A new metric is an entry of `METRICS` and its function, or a plugin's `MetricSpec` (``milsurv_register_metrics``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from milsurv.evaluation import brier, concordance
from milsurv.evaluation.intervals import (
    FloatArray,
    Metric,
    not_computable,
    with_interval,
)
from milsurv.evaluation.strata import Stratum
from milsurv.evaluation.times import EvaluationTimes, time_text

AT = "_at_"
"""Between the name of a metric and the time at which it was computed."""
Place = Literal["key_table", "screen", "compare", "curve"]
"""The report's key numbers, the terminal, ``milsurv compare``, the curves over time."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """How a number in ``metrics.json`` is presented. Every metric is in the report's table of all metrics."""

    name: str
    """Key in ``metrics.json``: lower case, digits and underscores. ``_at_<t>`` is appended if ``over="times"``."""
    title: str
    direction: Literal["higher", "lower"] | None = None
    """Which values are better; None for a reference or a test."""
    chance: float | None = None
    """Value of random predictions."""
    note: str = ""
    """How to read the values: ``0 is Kaplan-Meier``."""
    over: Literal["follow_up", "integrated", "times"] = "follow_up"
    """Computed once; once, over the grid of integration times; or at each evaluation time."""
    shown: tuple[Place, ...] = ()
    """Further places that show it."""
    label: str = ""
    """Short title for the terminal and the axes of figures; empty: ``title``."""
    format: Literal["number", "ratio", "p_value"] = "number"
    reference: str = ""
    """Name of a metric of the same kind that is drawn next to it."""
    section: Literal["metrics", "calibration", "high_against_low"] = "metrics"
    """The part of an account that contains it; ``metrics`` unless it is computed without a function of its own."""
    family: Literal["discrimination", "probabilities"] = "discrimination"
    """The sentence of the methods text that names it."""
    methods: str = ""
    """Its name in the methods text; empty when another entry covers it."""
    citations: tuple[str, ...] = ()
    """Keys of ``report/citations.yaml``, or complete references."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or AT in self.name:
            raise ValueError(
                f"invalid metric name {self.name!r}: use lower-case letters, digits and underscores, without {AT!r}"
            )

    def heading(self, time: str = "") -> str:
        """``Brier score at 24 months (lower is better)``."""
        hints = [
            f"{self.direction} is better" if self.direction else "",
            "" if self.chance is None else f"{self.chance:g} is chance",
            self.note,
        ]
        reading = ", ".join(hint for hint in hints if hint)
        return self.title + (f" at {time}" if time else "") + (f" ({reading})" if reading else "")


@dataclass(frozen=True, kw_only=True)
class MetricSpec(MetricInfo):
    """A metric: its presentation and its function."""

    function: Callable[..., FloatArray]
    """Called with the strata (a list of `Stratum`), and with the integration times if ``over="integrated"`` or the
    time if ``over="times"``. Returns ``(1 + resamples,)``: the value for the observed cases, then for each resample
    (NaN where undefined). Raises `NotComputableError` with the reason when it is undefined for the observed cases.
    See `bootstrapped` for plain functions of time, event and risk."""
    details: Callable[[Sequence[Stratum]], Mapping[str, object]] | None = None
    """Further keys of the metric in ``metrics.json``."""


HARRELL = MetricSpec(
    name="harrell_c_index",
    title="Harrell's C-index",
    direction="higher",
    chance=0.5,
    shown=("key_table", "screen", "compare"),
    label="Harrell's C",
    methods="Harrell's C-index",
    citations=("harrell_1982", "harrell_1996"),
    function=concordance.harrell_c_index,
)
METRICS = (
    HARRELL,
    MetricSpec(
        name="uno_c_index",
        title="Uno's C-index",
        direction="higher",
        chance=0.5,
        shown=("key_table", "screen"),
        label="Uno's C",
        methods="Uno's C-index",
        citations=("uno_2011",),
        function=concordance.uno_c_index,
        details=concordance.truncations,
    ),
    MetricSpec(
        name="integrated_area_under_roc",
        title="Integrated area under the ROC curve",
        direction="higher",
        chance=0.5,
        over="integrated",
        shown=("key_table",),
        function=concordance.integrated_area_under_roc,
    ),
    MetricSpec(
        name="integrated_brier_score",
        title="Integrated Brier score",
        direction="lower",
        over="integrated",
        shown=("key_table", "screen"),
        function=brier.brier_score,
    ),
    MetricSpec(
        name="integrated_brier_score_kaplan_meier",
        title="Integrated Brier score of Kaplan-Meier",
        note="the reference",
        over="integrated",
        shown=("screen",),
        label="  Kaplan-Meier reference",
        function=brier.brier_score_kaplan_meier,
    ),
    MetricSpec(
        name="integrated_index_of_prediction_accuracy",
        title="Integrated index of prediction accuracy",
        direction="higher",
        note="0 is Kaplan-Meier",
        over="integrated",
        shown=("key_table",),
        function=brier.index_of_prediction_accuracy,
    ),
    MetricSpec(
        name="area_under_roc",
        title="Area under the ROC curve",
        direction="higher",
        chance=0.5,
        over="times",
        shown=("curve",),
        methods="the cumulative/dynamic area under the ROC curve",
        citations=("uno_2007",),
        function=concordance.area_under_roc,
    ),
    MetricSpec(
        name="brier_score",
        title="Brier score",
        direction="lower",
        reference="brier_score_kaplan_meier",
        over="times",
        shown=("curve",),
        family="probabilities",
        methods="the Brier score with inverse probability of censoring weights",
        citations=("graf",),
        function=brier.brier_score,
    ),
    MetricSpec(
        name="brier_score_kaplan_meier",
        title="Brier score of Kaplan-Meier",
        note="the reference",
        over="times",
        shown=("curve",),
        function=brier.brier_score_kaplan_meier,
    ),
    MetricSpec(
        name="index_of_prediction_accuracy",
        title="Index of prediction accuracy",
        direction="higher",
        note="0 is Kaplan-Meier",
        over="times",
        family="probabilities",
        methods="the index of prediction accuracy",
        citations=("kattan",),
        function=brier.index_of_prediction_accuracy,
    ),
)
"""The metrics of every run, in the order of ``metrics.json``."""
OTHERS = (
    MetricInfo(
        name="hazard_ratio",
        title="Hazard ratio within folds, high to low risk",
        note="1 is no difference",
        shown=("key_table",),
        format="ratio",
        section="high_against_low",
    ),
    MetricInfo(
        name="log_rank_p_value",
        title="Log-rank p within folds, high against low risk",
        shown=("key_table",),
        format="p_value",
        section="high_against_low",
    ),
    MetricInfo(
        name="d_calibration",
        title="D-calibration, p-value",
        note="small: predicted survival is not calibrated",
        shown=("key_table",),
        format="p_value",
        section="calibration",
        family="probabilities",
        methods="D-calibration",
        citations=("haider",),
    ),
    MetricInfo(
        name="slope",
        title="Calibration slope",
        note="1 is calibrated, below 1 too extreme, above 1 too moderate",
        over="times",
        section="calibration",
        family="probabilities",
        methods="calibration plots",
        citations=("austin",),
    ),
)
"""The metrics that are computed with the risk groups and the calibration."""


def bind_metrics(
    metrics: Sequence[MetricSpec], strata: Sequence[Stratum], times: EvaluationTimes
) -> Iterator[tuple[str, MetricSpec, Callable[[], FloatArray]]]:
    """The key of each metric in ``metrics.json``, the metric, and a function without arguments that computes it.

    Those ``over="times"`` come last, one for each evaluation time.
    """
    for spec in metrics:
        if spec.over == "integrated" and not times.integration:
            yield spec.name, spec, not_computable(times.reason or "no integration times")
        elif spec.over != "times":
            arguments = (times.integration,) if spec.over == "integrated" else ()
            yield spec.name, spec, partial(spec.function, strata, *arguments)
    for t in times.times:
        for spec in metrics:
            if spec.over == "times":
                yield f"{spec.name}{AT}{time_text(t)}", spec, partial(spec.function, strata, t)


def compute_metrics(
    metrics: Sequence[MetricSpec], strata: Sequence[Stratum], times: EvaluationTimes
) -> dict[str, Metric]:
    """Each metric of the strata, see :func:`bind_metrics`."""
    return {
        name: with_interval(compute, spec.details(strata) if spec.details else None)
        for name, spec, compute in bind_metrics(metrics, strata, times)
    }


def definitions(
    metrics: Sequence[MetricSpec] = METRICS, others: Sequence[MetricInfo] = OTHERS
) -> dict[str, dict[str, Any]]:
    """Name -> fields of its :class:`MetricInfo`, ready for JSON: the description of the metrics in ``metrics.json``."""
    names = [field.name for field in fields(MetricInfo)]
    values = {info.name: [(name, getattr(info, name)) for name in names] for info in (*metrics, *others)}
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in items}
        for name, items in values.items()
    }


def read_definitions(metrics: Mapping[str, Any]) -> dict[str, MetricInfo]:
    """Name -> its :class:`MetricInfo`, from ``metrics.json``; that of the built-in metrics when it has none."""
    known = {field.name for field in fields(MetricInfo)}
    found = metrics.get("definitions") or definitions()
    return {
        name: MetricInfo(**{key: value for key, value in info.items() if key in known})
        for name, info in found.items()
    }


def heading(found: Mapping[str, MetricInfo], name: str, time_unit: str) -> str:
    """The heading of a key of ``metrics``, such as ``brier_score_at_24``."""
    base, _, t = name.partition(AT)
    if base not in found:
        return name.replace("_", " ")
    return found[base].heading(f"{t} {time_unit}" if t else "")
