"""What stands under each figure, and what it shows in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from milsurv.evaluation.times import survival_column, time_text
from milsurv.report.figures.survival_curves import MOST_FAINT, PREFIX, by_risk, chosen
from milsurv.report.results import RunResults
from milsurv.report.wording import count, number, p_value, time, with_interval


def _scope(results: RunResults) -> str:
    """Of which folds and seed a figure is, where there are several."""
    scope = ", pooled over folds" if len(results.folds) > 1 else ""
    return scope + (f", under seed {results.first_seed['seed']}" if len(results.metrics["seeds"]) > 1 else "")


def kaplan_meier(results: RunResults) -> str:
    """Under the curves of high and low risk."""
    said = f"Kaplan-Meier estimates with 95 % bands, and the number of cases at risk{_scope(results)}."
    if results.external:
        return f"{said} A case is at high risk when its risk is above the median risk of the training cases."
    return f"{said} {results.first_seed['risk_groups']['note']}"


def calibration(results: RunResults) -> str:
    """Under the calibration plots."""
    return (
        "Observed survival (Kaplan-Meier, with its 95 % interval) against the mean of predicted survival, in groups of "
        f"cases by predicted survival{_scope(results)}. On the dotted line the two agree; below it fewer cases live "
        "than was predicted."
    )


def performance(results: RunResults) -> str:
    """Under AUC and Brier score over time."""
    return (
        "Area under the ROC curve (cumulative/dynamic; higher is better, 0.5 is chance) and Brier score (lower is "
        f"better){_scope(results)}. Dots are the stated times, with 95 % intervals. The dashed line predicts the "
        f"Kaplan-Meier curve of {results.reference_cases} for everyone."
    )


def survival(results: RunResults) -> str:
    """Under the curves of single cases."""
    cases = len(by_risk(results.first_predictions))
    others = f"a sample of {MOST_FAINT} of the {cases} cases" if cases > MOST_FAINT else "all other cases"
    return (
        f"Survival that the model predicts{_scope(results)}: in colour the cases at five ranks of standardised risk "
        f"(90 %: nine in ten cases have a lower one), in grey {others}."
    )


def risk(results: RunResults) -> str:
    """Under the distribution of risk."""
    return (
        "Standardised risk of the reported cases"
        f"{_scope(results)}: the distance from the median risk of the training cases, in their standard deviations. "
        "0 is the cut between low and high risk."
    )


def training(results: RunResults) -> str:
    """Under the training curves."""
    history, optimistic = results.history, "optimistic_chosen" in results.history
    validated = bool(history["validation_loss"].notna().any())
    return (
        "Loss and Harrell's C-index by epoch: training cases dashed"
        + (", inner validation cases solid" if validated else "")
        + (", reported cases solid in orange" if "reported_loss" in history else "")
        + (", a line for each seed" if len(results.metrics["seeds"]) > 1 else "")
        + "; the dot is the epoch that was kept"
        + (", the ring the one that the reported cases chose" if optimistic else "")
        + ". The dotted line is chance."
    )


def describe_kaplan_meier(results: RunResults) -> str:
    """The Kaplan-Meier figure in words."""
    groups, time_unit = results.first_seed["risk_groups"], results.cohort["time_unit"]
    sides = [_describe_group(name, groups[name], time_unit) for name in ("high", "low")]
    test = groups["log_rank_p_value"]
    result = (
        f"Log-rank {p_value(test['value'])}"
        if test["value"] is not None
        else f"No log-rank test: {test['reason']}"
    )
    return f"Kaplan-Meier curves with 95 % bands. {'; '.join(sides)}. {result}."


def _describe_group(name: str, group: Mapping[str, Any], time_unit: str) -> str:
    median = group["median_survival"]
    said = (
        f"median survival {time(median['value'])} {time_unit}"
        if median["value"] is not None
        else f"no median survival ({median['reason']})"
    )
    return f"{name.capitalize()} risk: {count(group['cases'], 'case')}, {count(group['events'], 'event')}, {said}"


def describe_training(history: pd.DataFrame, fold: int) -> str:
    """A fold's training curves in words."""
    lines = [f"Loss and Harrell's C-index by epoch in fold {fold}."]
    for seed, run in history[history["fold"] == fold].groupby("seed"):
        first, last, kept = run.iloc[0], run.iloc[-1], run[run["chosen"] == 1].iloc[0]
        line = (
            f"Seed {seed}: training loss from {_value(first['train_loss'])} to {_value(last['train_loss'])} in "
            f"{count(len(run), 'epoch')}; epoch {kept['epoch']:.0f} was kept"
        )
        if pd.notna(kept["validation_loss"]):
            line += (
                f", with validation loss {_value(kept['validation_loss'])} and validation C-index "
                f"{_value(kept['validation_c_index'])}"
            )
        lines.append(f"{line}.")
    return " ".join(lines)


def _value(value: float) -> str:
    return number(None if pd.isna(value) else value)


def describe_all_training(results: RunResults) -> str:
    """The training curves of all folds in words."""
    return " ".join(describe_training(results.history, fold) for fold in results.folds)


def describe_calibration(results: RunResults) -> str:
    """The calibration plots in words."""
    unit = results.cohort["time_unit"]
    said = []
    for at in results.first_seed["calibration"]["at"]:
        groups = [
            f"predicted {number(group['predicted'])}, observed {with_interval(group['observed'])}"
            for group in at["groups"]
        ]
        said.append(f"At {time_text(at['time'])} {unit}: {'; '.join(groups) or at['groups_reason']}.")
    return " ".join(["Observed against predicted survival.", *said])


def describe_performance(results: RunResults) -> str:
    """AUC and Brier score at the stated times, in words."""
    unit, metrics = results.cohort["time_unit"], results.first_seed["metrics"]
    said = ["AUC and Brier score over time."]
    for t in results.metrics["times"]:
        auc, brier, reference = (
            with_interval(metrics[f"{name}_at_{time_text(t)}"])
            for name in ("area_under_roc", "brier_score", "brier_score_kaplan_meier")
        )
        said.append(f"At {time_text(t)} {unit}: AUC {auc}, Brier score {brier}, of Kaplan-Meier {reference}.")
    return " ".join(said)


def describe_survival(results: RunResults) -> str:
    """The coloured curves of single cases in words."""
    predictions, unit = results.first_predictions, results.cohort["time_unit"]
    times = sorted(float(c.removeprefix(PREFIX)) for c in predictions.columns if c.startswith(PREFIX))
    ranked = by_risk(predictions)
    if not times or ranked.empty:
        return "No curves of predicted survival."
    last = times[-1]
    ends = [
        f"{100 * quantile:.0f} % ({ranked['case_id'].iloc[place]}): "
        f"{number(ranked[survival_column(last)].iloc[place])}"
        for quantile, place in chosen(len(ranked)).items()
    ]
    return f"Predicted survival at {time_text(last)} {unit}, by rank of risk: {', '.join(ends)}."


def describe_risk(results: RunResults) -> str:
    """The distribution of risk in words."""
    cases = by_risk(results.first_predictions)
    said = []
    for code, name in ((1, "with the event"), (0, "censored")):
        of_group = cases.loc[cases["event"] == code, "standardized_risk"]
        if len(of_group):
            low, middle, high = of_group.quantile([0.25, 0.5, 0.75])
            said.append(
                f"{count(len(of_group), 'case')} {name}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}"
            )
    return f"Standardised risk. {'; '.join(said) or 'No case has a finite risk'}."
