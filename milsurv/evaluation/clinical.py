"""Added value of the image: Cox models of clinical variables, the image risk and both, on the same folds and cases.

Predictive models are fitted on each fold's training cases and evaluated on its test cases. Whether the image risk adds
information is tested on the test cases: on the training cases, to which the network was fitted, it always would.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from scipy.stats import chi2

from milsurv.cohort.cases import Cohort, Split
from milsurv.config.run import Evaluation
from milsurv.errors import MilsurvError
from milsurv.evaluation.concordance import harrell_c_index
from milsurv.evaluation.intervals import (
    CONFIDENCE,
    FloatArray,
    NotComputableError,
    difference,
    metric,
    once,
    with_interval,
)
from milsurv.evaluation.risk_groups import hazard_ratio_of
from milsurv.evaluation.schema import ClinicalComparison, ImageEffect
from milsurv.evaluation.strata import TrainingFollowUp, strata_of_seed
from milsurv.evaluation.subgroups import MAX_VALUES, numbers

EVENTS_PER_COEFFICIENT = 5
"""Minimum for a Cox model: Vittinghoff and McCulloch, American Journal of Epidemiology 165 (2007) 710."""
IMAGE = "image risk"
MODELS = ("clinical", "image", "both")
DIFFERENCES = (("image", "clinical"), ("both", "clinical"), ("both", "image"))


@dataclass(frozen=True)
class ClinicalData:
    """Inputs of the comparison in addition to the predictions."""

    columns: tuple[str, ...]
    """Columns of the cohort table."""
    variables: pd.DataFrame
    """Those of :func:`variables`, indexed by case id."""
    follow_up: pd.DataFrame
    """``time`` and ``event`` (1 or 0) of every case, indexed by case id."""
    training: Mapping[int, Sequence[str]]
    """Fold -> ids of its training cases, those of inner validation too."""
    risks: Mapping[tuple[int, int], pd.DataFrame]
    """Seed and fold -> ``case_id, risk`` of training cases, where available."""

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        splits: Iterable[Split],
        columns: tuple[str, ...],
        risks: Mapping[tuple[int, int], pd.DataFrame],
    ) -> ClinicalData:
        """From the cohort's usable cases, whose attributes include the columns."""
        rows = [(case.time, case.event) for case in cohort.cases]
        follow_up = pd.DataFrame(rows, [case.case_id for case in cohort.cases], ["time", "event"])
        training = {split.fold: split.train + split.validation for split in splits}
        return cls(columns, variables(attribute_table(cohort, columns)), follow_up, training, risks)


def attribute_table(cohort: Cohort, columns: Sequence[str]) -> pd.DataFrame:
    """The text of ``columns``, empty when missing, indexed by case id."""
    texts = [[case.attributes[column] for column in columns] for case in cohort.cases]
    return pd.DataFrame(texts, [case.case_id for case in cohort.cases], list(columns), dtype=object)


def variables(texts: pd.DataFrame) -> pd.DataFrame:
    """Covariates ``(cases, k)`` from columns of text, for the cases without an empty cell.

    Numeric columns are used as they are; categorical columns are one-hot encoded without the most frequent value.
    Raises `MilsurvError` when a column has more than ten distinct values that are not numbers.
    """
    complete = texts[(texts != "").all(axis=1)]
    made: dict[str, Any] = {}
    for column in texts:
        values = complete[column]
        known = numbers(dict(zip(values.index, values, strict=True)))
        if known is not None:
            made[f"{column} (number)"] = pd.Series(known, dtype=float)
            continue
        by_count = Counter(values.sort_values()).most_common()
        if len(by_count) > MAX_VALUES:
            raise MilsurvError(
                f"evaluation.clinical: column {column!r} has {len(by_count)} distinct values that are not numbers; "
                f"allowed: at most {MAX_VALUES}; merge values in the table or remove the column"
            )
        for value, _ in by_count[1:]:
            made[f"{column}: {value}"] = (values == value).astype(float)
    return pd.DataFrame(made, index=complete.index, dtype=float)


def compare_with_clinical(
    predictions: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    data: ClinicalData,
    settings: Evaluation,
) -> ClinicalComparison:
    """The comparison under one seed, over the test cases without missing clinical variables.

    Harrell's C of each model, and the differences between them (``image_less_clinical``, …), are pooled over folds,
    with intervals from the same resamples. ``excluded`` counts the test cases with missing variables. The model of both
    needs the image risk of training cases, and has no C where a fold lacks them. The likelihood-ratio test and the
    hazard ratio are those of :func:`added_by_image`.
    """
    known = predictions[predictions["case_id"].isin(data.variables.index)]

    def c_index(model: str) -> FloatArray:
        if known.empty:
            raise NotComputableError("no test case has all clinical variables")
        rows = known if model == "image" else known.assign(risk=_predicted(model, known, data))
        return harrell_c_index(strata_of_seed(rows, training, (), settings))

    values = {name: once(partial(c_index, name)) for name in MODELS}
    return {
        "seed": int(predictions["seed"].iloc[0]),
        "columns": list(data.columns),
        "cases": len(known),
        "events": int((known["event"] == 1).sum()),
        "excluded": len(predictions) - len(known),
        "harrell_c_index": {name: with_interval(values[name]) for name in MODELS},
        "differences": {
            f"{one}_less_{other}": with_interval(difference(values[one], values[other]))
            for one, other in DIFFERENCES
        },
        **added_by_image(known, data.variables),
    }


def added_by_image(known: pd.DataFrame, covariates: pd.DataFrame) -> ImageEffect:
    """Likelihood-ratio test and hazard ratio of the image risk, adjusted for clinical variables.

    Two Cox models of the test cases (Efron's ties), stratified by fold, contain the clinical variables with and without
    the image risk, standardised within its fold: twice the difference of their log partial likelihoods is chi-square
    with one degree of freedom (Cox, JRSS B 34 (1972) 187). The hazard ratio is per standard deviation, with its 95 %
    Wald interval.
    """
    try:
        table = covariates.loc[known["case_id"]].reset_index(drop=True)
        table[IMAGE] = known.groupby("fold")["risk"].transform(_standardised).to_numpy()
        follow_up = known[["time", "event", "fold"]].reset_index(drop=True)
        if not np.isfinite(table[IMAGE]).all():
            raise NotComputableError("a risk is not a finite number")
        if not table[IMAGE].any():
            raise NotComputableError("the image risk is the same for all cases of each fold")
        full = _cox(table, follow_up, ["fold"])
        null = _cox(table.drop(columns=IMAGE), follow_up, ["fold"])
    except NotComputableError as reason:
        none = metric(None, reason=str(reason))
        return {"likelihood_ratio_p_value": none, "hazard_ratio": none}
    statistic = max(0.0, 2 * float(full.log_likelihood_ - null.log_likelihood_))
    return {
        "likelihood_ratio_p_value": {**metric(float(chi2.sf(statistic, 1))), "statistic": statistic},
        "hazard_ratio": hazard_ratio_of(IMAGE, full),
    }


def _standardised(risk: pd.Series[float]) -> pd.Series[float]:
    spread = float(risk.std(ddof=0))
    return risk * 0 if spread == 0 else (risk - risk.mean()) / spread


def _predicted(model: str, known: pd.DataFrame, data: ClinicalData) -> pd.Series[float]:
    """Log partial hazards of the test cases, by a Cox model of each fold's training cases."""
    folds = known.groupby("fold")
    predicted = []
    for fold, rows in folds:
        try:
            predicted.append(_predicted_fold(model, rows, data))
        except NotComputableError as reason:
            raise NotComputableError(f"fold {fold}: {reason}" if len(folds) > 1 else str(reason)) from None
    return pd.concat(predicted)


def _predicted_fold(model: str, rows: pd.DataFrame, data: ClinicalData) -> pd.Series[float]:
    seed, fold = int(rows["seed"].iloc[0]), int(rows["fold"].iloc[0])
    ids = data.variables.index.intersection(list(data.training[fold]), sort=False)
    table, new = data.variables.loc[ids], data.variables.loc[rows["case_id"]]
    if model == "both":
        if (seed, fold) not in data.risks:
            raise NotComputableError("the run has no image risk of its training cases")
        risks = data.risks[seed, fold].set_index("case_id")["risk"].rename(IMAGE)
        table, new = table.join(risks, how="inner"), new.assign(**{IMAGE: rows["risk"].to_numpy()})
    fitted = _fit_training_cases(table, data)
    return pd.Series(_log_hazard(fitted, new).to_numpy(), rows.index)


def _fit_training_cases(table: pd.DataFrame, data: ClinicalData) -> CoxPHFitter:
    fitted = _cox(table, data.follow_up.loc[table.index])
    if not len(fitted.params_):
        raise NotComputableError("no clinical variable differs among the training cases")
    return fitted


def _log_hazard(fitted: CoxPHFitter, covariates: pd.DataFrame) -> pd.Series[float]:
    coefficients = fitted.params_
    return pd.Series(covariates[coefficients.index].to_numpy() @ coefficients.to_numpy(), covariates.index)


def clinical_risks(data: ClinicalData, fold: int, test: Sequence[str]) -> pd.DataFrame:
    """``case_id, role, time, event, risk`` of a fold's training and test cases without missing variables.

    The risk is the log-hazard of a Cox model of the training cases. Raises :class:`NotComputableError` when that cannot
    be fitted.
    """
    ids = {
        role: data.variables.index.intersection(list(cases), sort=False)
        for role, cases in (("train", data.training[fold]), ("test", test))
    }
    fitted = _fit_training_cases(data.variables.loc[ids["train"]], data)
    tables = [
        data.follow_up.loc[cases].assign(risk=_log_hazard(fitted, data.variables.loc[cases]), role=role)
        for role, cases in ids.items()
    ]
    return pd.concat(tables).rename_axis("case_id").reset_index()


def _cox(covariates: pd.DataFrame, follow_up: pd.DataFrame, strata: Sequence[str] = ()) -> CoxPHFitter:
    """The Cox model of those ``covariates (n, k)`` that differ among the cases.

    A value whose cases all survive has no finite hazard ratio; it gets a very low one, which ranks the same.
    Raises :class:`NotComputableError` when there are fewer than five events per coefficient, and when the fit does not
    converge.
    """
    varying = covariates.loc[:, covariates.nunique() > 1]
    events, coefficients = int(follow_up["event"].sum()), varying.shape[1]
    if events < EVENTS_PER_COEFFICIENT * coefficients:
        raise NotComputableError(
            f"too few events: {events}, at least {EVENTS_PER_COEFFICIENT * coefficients} required for "
            f"{coefficients} coefficients"
        )
    table = pd.concat([varying, follow_up.astype({"time": float})], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            return CoxPHFitter(alpha=1 - CONFIDENCE).fit(table, "time", "event", strata=list(strata) or None)
        except ConvergenceError:
            raise NotComputableError(
                "the Cox model does not converge: variables may be collinear, or separate the cases"
            ) from None
