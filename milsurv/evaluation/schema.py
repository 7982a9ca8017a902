"""The structure of ``metrics.json`` and of ``milsurv compare --json``."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from milsurv.evaluation.intervals import Metric


class DCalibration(Metric):
    """The p-value, its chi-square statistic, and the share of cases in each bin."""

    degrees_of_freedom: int | None
    bins: list[float] | None


class CalibrationGroup(TypedDict):
    """Cases of similar predicted survival: the mean prediction and the observed survival."""

    cases: int
    events: int
    predicted: float
    observed: Metric


class CalibrationAt(TypedDict):
    """Calibration at one time."""

    time: float
    slope: Metric
    groups: list[CalibrationGroup]
    groups_reason: str | None


class Calibration(TypedDict):
    """Calibration over the whole follow-up and at each evaluation time."""

    d_calibration: DCalibration
    at: list[CalibrationAt]


class GroupComparison(TypedDict):
    """High against low risk, stratified by fold."""

    hazard_ratio: Metric
    log_rank_p_value: Metric


class RiskGroup(TypedDict):
    """The cases at high, or at low, risk."""

    cases: int
    events: int
    at_risk: list[int]
    kaplan_meier: dict[str, list[float]] | None
    """``time``, ``survival``, ``lower`` and ``upper``; None for an empty group."""
    median_survival: Metric


class RiskGroups(TypedDict):
    """Survival of the two risk groups, pooled over folds."""

    high: RiskGroup
    low: RiskGroup
    ungrouped: int
    at_risk_times: list[float]
    log_rank_p_value: Metric
    note: str


class Account(TypedDict):
    """All metrics of a set of predictions. ``seed`` is missing for the ensemble."""

    seed: NotRequired[int]
    cases: int
    events: int
    metrics: dict[str, Metric]
    calibration: Calibration
    high_against_low: GroupComparison


class FoldAccount(Account):
    """The test cases of one fold."""

    fold: int


class SubgroupAccount(Account):
    """The cases that share a value of a column of the cohort table."""

    column: str
    value: str


class PooledAccount(Account):
    """All folds of a seed, or of the ensemble."""

    over_time: list[dict[str, Any]]
    """``time``, and for each curve its name with ``{"value", "reason"}``."""
    risk_groups: RiskGroups


class ImageEffect(TypedDict):
    """Likelihood-ratio test and hazard ratio of the image risk, adjusted for clinical variables."""

    likelihood_ratio_p_value: Metric
    hazard_ratio: Metric


class ClinicalComparison(ImageEffect):
    """Cox models of clinical variables, of the image risk and of both."""

    seed: int
    columns: list[str]
    cases: int
    events: int
    excluded: int
    harrell_c_index: dict[str, Metric]
    differences: dict[str, Metric]


class BaselineComparison(TypedDict):
    """A baseline and the run's model, on the test cases that the baseline predicts, pooled over folds."""

    name: str
    seed: int | None
    """Seed of the model; None for the ensemble of several."""
    cases: int
    events: int
    excluded: int
    """Test cases that the baseline cannot predict."""
    baseline: dict[str, Metric]
    model: dict[str, Metric]
    differences: dict[str, Metric]
    """The model's value less the baseline's, from the same resamples, of metrics with a better direction."""


class Summary(TypedDict):
    """A metric over all folds and seeds in which it could be computed."""

    mean: float | None
    standard_deviation: float | None
    folds: int
    note: str | None


class TrueRisk(TypedDict):
    """Metrics of the known risk of a synthetic cohort."""

    harrell_c_index: dict[str, Any]
    """:class:`Summary` with ``pooled``, a metric."""
    note: str


class EvaluationResults(TypedDict):
    """Return value of :func:`milsurv.evaluation.evaluate.evaluate`."""

    definitions: dict[str, dict[str, Any]]
    """Name of each metric -> the fields of its :class:`~milsurv.evaluation.metrics.MetricInfo`."""
    seeds: list[int]
    times: list[float]
    integration_times: list[float]
    truncation: float | None
    folds: list[FoldAccount]
    pooled: list[PooledAccount]
    subgroups: list[SubgroupAccount]
    clinical: list[ClinicalComparison]
    ensemble: PooledAccount | None
    baselines: list[BaselineComparison]
    summary: dict[str, Summary]
    true_risk: TrueRisk | None


class RunMetrics(EvaluationResults):
    """``metrics.json``."""

    cohort: dict[str, Any]
    """The same as ``cohort.json``."""
    optimistic: EvaluationResults | None


class ComparedPair(TypedDict):
    """The paired difference of two runs in one metric."""

    metric: str
    first: str
    second: str
    difference: Metric
    p_value: Metric
    holm_p_value: Metric


class Comparison(TypedDict):
    """Return value of :func:`milsurv.evaluation.compare.compare`."""

    cases: int
    events: int
    bootstraps: int
    definitions: dict[str, dict[str, Any]]
    runs: list[dict[str, Any]]
    """``name``, and each compared metric under its name; ``selection`` and ``folder`` are those of the run's folder."""
    pairs: list[ComparedPair]
