"""The report's tables of numbers: every missing one has its reason in a note."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from milsurv.evaluation.times import time_text
from milsurv.report.results import RunResults
from milsurv.report.wording import (
    CALIBRATION_SLOPE,
    CLINICAL_DIFFERENCES,
    CLINICAL_MODELS,
    CLINICAL_TESTS,
    D_CALIBRATION,
    DASH,
    HAZARD_RATIO,
    LOG_RANK,
    bare_p_value,
    metric_name,
    number,
    ratio,
    time,
)

KEY_METRICS = (
    "harrell_c_index",
    "uno_c_index",
    "integrated_area_under_roc",
    "integrated_brier_score",
    "integrated_index_of_prediction_accuracy",
)


@dataclass(frozen=True)
class Cell:
    """What stands in a table's cell: a line, a smaller second line, and a note's number (from 1)."""

    text: str
    second: str = ""
    note: int | None = None


@dataclass
class Table:
    """A table with a heading for each column and row, and notes under it."""

    name: str
    """Its id on the page."""
    caption: str
    columns: Sequence[str]
    """The first stands over the rows' headings."""
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Reasons, to which cells refer by number."""
    remarks: list[str] = field(default_factory=list)
    """What there is to say about the whole table."""

    def note(self, reason: str | None) -> int | None:
        """The number of the note that gives ``reason``, added when it is new."""
        if reason is None:
            return None
        if reason not in self.notes:
            self.notes.append(reason)
        return self.notes.index(reason) + 1

    def metric(self, metric: Mapping[str, Any], show: Callable[[float], str] = number) -> Cell:
        """A metric with its interval, or the reasons for what is missing of it."""
        value, ends = metric["value"], metric["interval"]
        dash = " to " if ends and ends[0] < 0 else "–"
        second = dash.join(show(end) for end in ends) if ends else ""
        return Cell(DASH if value is None else show(value), second, self.note(metric["reason"]))


def key_table(results: RunResults) -> Table:
    """The few numbers to read first, by seed."""
    unit = results.cohort["time_unit"]
    accounts = _accounts(results)
    table = Table(
        "key-numbers", f"Key numbers{_over(results)}, with 95 % intervals", ["Measure", *_headings(results)]
    )
    for name in KEY_METRICS:
        table.rows.append(
            (metric_name(name, unit), [table.metric(account["metrics"][name]) for account in accounts])
        )
    compared = [account["high_against_low"] for account in accounts]
    for name, heading, show in (
        ("hazard_ratio", HAZARD_RATIO, ratio),
        ("log_rank_p_value", LOG_RANK, bare_p_value),
    ):
        cells = [table.metric(found[name], show) for found in compared]
        table.rows.append((_within(heading, results), cells))
    tests = [table.metric(account["calibration"]["d_calibration"], bare_p_value) for account in accounts]
    table.rows.append((D_CALIBRATION, tests))
    return table


def _accounts(results: RunResults) -> list[Mapping[str, Any]]:
    """What is measured under each seed, and of their ensemble when there are several."""
    metrics = results.metrics
    return [*metrics["pooled"], *([metrics["ensemble"]] if metrics["ensemble"] else [])]


def _headings(results: RunResults) -> list[str]:
    """Over the columns of :func:`_accounts`."""
    metrics = results.metrics
    if results.external and len(metrics["pooled"]) == 1:
        return ["Value"]
    seeds = [f"Seed {seed['seed']}" for seed in metrics["pooled"]]
    return [*seeds, *(["Ensemble of the seeds"] if metrics["ensemble"] else [])]


def _within(heading: str, results: RunResults) -> str:
    """The heading without a word of folds where there is one alone."""
    return heading if len(results.folds) > 1 else heading.replace(" within folds", "")


def _over(results: RunResults) -> str:
    return ", pooled over folds" if len(results.folds) > 1 else ""


def pooled_table(results: RunResults) -> Table:
    """Metrics pooled over folds, by seed, and their mean and standard deviation over folds and seeds."""
    metrics, unit = results.metrics, results.cohort["time_unit"]
    alone = len(metrics["folds"]) == 1
    table = Table(
        "pooled",
        f"All metrics{_over(results)}, with 95 % intervals",
        ["Metric", *_headings(results), *([] if alone else ["Mean ± SD over folds and seeds"])],
    )
    for name, summary in metrics["summary"].items():
        cells = [table.metric(account["metrics"][name]) for account in _accounts(results)]
        means = [] if alone else [_mean_cell(table, summary)]
        table.rows.append((metric_name(name, unit), [*cells, *means]))
    if metrics["truncation"] is None:
        _tell_truncation(table, results, metrics["pooled"][0]["metrics"].get("uno_c_index", {}), unit)
    else:
        stated = time(metrics["truncation"])
        table.remarks.append(
            f"Uno's C-index counts events before {stated} {unit}, as evaluation.truncation says."
        )
    return table


def selection_table(results: RunResults) -> Table | None:
    """What is had by an epoch chosen honestly and by one that the reported cases chose; None without both."""
    honest, optimistic = results.metrics, results.metrics.get("optimistic")
    if optimistic is None:
        return None
    seeds = honest["seeds"]
    table = Table(
        "selection",
        "Honest and optimistic choice of the epoch, from the same trainings, with 95 % intervals",
        ["Metric", *(f"{choice}, seed {seed}" for seed in seeds for choice in ("Honest", "Optimistic"))],
    )
    for name in honest["summary"]:
        cells = [
            table.metric(account["metrics"][name])
            for pair in zip(honest["pooled"], optimistic["pooled"], strict=True)
            for account in pair
        ]
        table.rows.append((metric_name(name, results.cohort["time_unit"]), cells))
    return table


def _mean_cell(table: Table, summary: Mapping[str, Any]) -> Cell:
    if summary["mean"] is None:
        return Cell(DASH, note=table.note(summary["note"]))
    deviation = summary["standard_deviation"]
    reason = summary["note"] or ("no standard deviation of a single fold" if deviation is None else None)
    return Cell(f"{number(summary['mean'])} ± {number(deviation)}", note=table.note(reason))


def _tell_truncation(table: Table, results: RunResults, uno: Mapping[str, Any], unit: str) -> None:
    by_fold = uno.get("truncated_at_by_fold", {"": uno.get("truncated_at")})
    whose = results.reference_cases if results.external else "each fold's training cases"
    known = [
        f"fold {fold} {time(tau)}" if fold else time(tau) for fold, tau in by_fold.items() if tau is not None
    ]
    if known:
        table.remarks.append(
            "Uno's C-index counts events before the 80th percentile of the event times of "
            f"{whose}, in {unit}: {', '.join(known)}."
        )


def fold_table(results: RunResults, seed: int) -> Table:
    """Each fold's metrics under one seed."""
    folds = [fold for fold in results.metrics["folds"] if fold["seed"] == seed]
    table = Table(
        f"folds-seed-{seed}",
        f"By fold, seed {seed}, with 95 % intervals",
        ["Metric", *(f"Fold {fold['fold']}" for fold in folds)],
    )
    for heading, key in (("Reported cases", "cases"), ("Events among them", "events")):
        table.rows.append((heading, [Cell(str(fold[key])) for fold in folds]))
    for name in folds[0]["metrics"]:
        cells = [table.metric(fold["metrics"][name]) for fold in folds]
        table.rows.append((metric_name(name, results.cohort["time_unit"]), cells))
    return table


def calibration_table(results: RunResults) -> Table:
    """Whether predicted survival is what happens, pooled over folds, by seed."""
    pooled, unit = results.metrics["pooled"], results.cohort["time_unit"]
    table = Table(
        "calibration",
        f"Calibration{_over(results)}",
        ["Measure", *_headings(results)[: len(pooled)]],
    )
    accounts = [seed["calibration"] for seed in pooled]
    tests = [table.metric(account["d_calibration"], bare_p_value) for account in accounts]
    table.rows.append((D_CALIBRATION, tests))
    for index, at in enumerate(accounts[0]["at"]):
        slopes = [table.metric(account["at"][index]["slope"]) for account in accounts]
        table.rows.append((CALIBRATION_SLOPE.format(time=f"{time_text(at['time'])} {unit}"), slopes))
    return table


def subgroup_table(results: RunResults, seed: int) -> Table:
    """What the model is worth in each subgroup under one seed, pooled over folds."""
    groups = [entry for entry in results.metrics["subgroups"] if entry["seed"] == seed]
    names = [name for name in groups[0]["metrics"] if "_at_" not in name]
    unit = results.cohort["time_unit"]
    table = Table(
        f"subgroups-seed-{seed}",
        f"By subgroup, seed {seed}{_over(results)}, with 95 % intervals",
        ["Subgroup", "Cases", "Events", *(metric_name(name, unit) for name in names), HAZARD_RATIO],
        remarks=["The intervals are not widened for the number of subgroups."],
    )
    for entry in groups:
        cells = [Cell(str(entry["cases"])), Cell(str(entry["events"]))]
        cells += [table.metric(entry["metrics"][name]) for name in names]
        cells.append(table.metric(entry["high_against_low"]["hazard_ratio"], ratio))
        table.rows.append((f"{entry['column']}: {entry['value']}", cells))
    return table


def clinical_table(results: RunResults) -> Table:
    """The image risk beside clinical variables, and with them, by seed."""
    comparisons = results.metrics["clinical"]
    first = comparisons[0]
    table = Table(
        "clinical",
        f"Image risk and clinical variables ({', '.join(first['columns'])}){_over(results)}, with 95 % intervals",
        ["Measure", *(f"Seed {entry['seed']}" for entry in comparisons)],
        remarks=[
            f"Of {first['cases']} reported cases with {first['events']} events; {first['left_out']} more are left out, "
            "because a clinical variable of theirs is missing. Cox models of clinical variables, and of both, are "
            "fitted on each fold's training cases. The likelihood-ratio test and the hazard ratio are of the reported "
            "cases, stratified by fold, beside the clinical variables; folds share training cases, so they are a guide "
            "only."
        ],
    )
    for part, names in (("harrell_c_index", CLINICAL_MODELS), ("differences", CLINICAL_DIFFERENCES)):
        for name, heading in names.items():
            table.rows.append((heading, [table.metric(entry[part][name]) for entry in comparisons]))
    for name, show in (("likelihood_ratio_p_value", bare_p_value), ("hazard_ratio", ratio)):
        table.rows.append((CLINICAL_TESTS[name], [table.metric(entry[name], show) for entry in comparisons]))
    return table


def split_table(results: RunResults) -> Table:
    """Who trained, who chose the epoch, who is reported, and which epoch was chosen."""
    seeds = results.metrics["seeds"]
    table = Table(
        "splits",
        "Cases by fold, and the epoch that was kept",
        [
            "Fold",
            "Training cases",
            "Inner validation cases",
            "Reported cases",
            *(f"Epoch kept, seed {seed}" for seed in seeds),
        ],
    )
    roles = results.splits.groupby(["fold", "role"]).size()
    history = results.history
    kept: Any = {} if history.empty else history[history["chosen"] == 1].set_index(["seed", "fold"])["epoch"]
    for fold in results.folds:
        cells = [Cell(str(roles.get((fold, role), 0))) for role in ("train", "validation", "test")]
        cells += [Cell(str(kept.get((seed, fold), DASH))) for seed in seeds]
        table.rows.append((f"Fold {fold}", cells))
    return table


def risk_group_table(results: RunResults) -> Table:
    """High and low risk under each seed."""
    unit, several = results.cohort["time_unit"], len(results.folds) > 1
    table = Table(
        "risk-groups",
        f"High and low risk{'' if results.external else ' by seed'}; median survival in {unit} with 95 % intervals",
        [
            "Group" if results.external else "Seed",
            *(
                f"{group} risk: {what}"
                for group in ("High", "Low")
                for what in ("cases", "events", "median survival")
            ),
            "Log-rank p of the curves",
            *(["Log-rank p within folds"] if several else []),
            _within(HAZARD_RATIO, results),
        ],
    )
    for pooled in results.metrics["pooled"]:
        groups = pooled["risk_groups"]
        cells = []
        for name in ("high", "low"):
            group = groups[name]
            cells += [Cell(str(group["cases"])), Cell(str(group["events"]))]
            cells.append(table.metric(group["median_survival"], time))
        within = pooled["high_against_low"]
        cells.append(table.metric(groups["log_rank_p_value"], bare_p_value))
        if several:
            cells.append(table.metric(within["log_rank_p_value"], bare_p_value))
        cells.append(table.metric(within["hazard_ratio"], ratio))
        if groups["ungrouped"]:
            table.remarks.append(
                f"Seed {pooled['seed']}: {groups['ungrouped']} cases without a finite risk are in no group."
            )
        table.rows.append(("All cases" if results.external else f"Seed {pooled['seed']}", cells))
    if several:
        table.remarks.append(
            "Within folds: stratified by fold, so that a case is compared with cases of its own fold alone."
        )
    table.remarks.append("The interval of the hazard ratio is that of a Cox model (Wald).")
    return table
