"""The report's tables. A missing number refers to a note with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from milsurv.evaluation.intervals import Metric
from milsurv.evaluation.metrics import HARRELL, MetricInfo
from milsurv.evaluation.schema import PooledAccount, Summary
from milsurv.evaluation.times import time_text
from milsurv.report.formatting import DASH, FORMATS, number, ratio, time
from milsurv.report.results import RunResults

CLINICAL_MODELS = {
    "clinical": f"{HARRELL.title} of clinical variables (higher is better)",
    "image": f"{HARRELL.title} of the image risk (higher is better)",
    "both": f"{HARRELL.title} of both (higher is better)",
}
CLINICAL_DIFFERENCES = {
    "image_less_clinical": "Image − clinical (above 0: the image is better)",
    "both_less_clinical": "Both − clinical (above 0: the image adds information)",
    "both_less_image": "Both − image (above 0: clinical variables add information)",
}


@dataclass(frozen=True)
class Cell:
    """A cell: its text, a second line in small print, and the number of a note (from 1)."""

    text: str
    second: str = ""
    note: int | None = None


@dataclass
class Table:
    """A table with a heading for each column and row, and notes below it."""

    name: str
    """Its id on the page."""
    caption: str
    columns: Sequence[str]
    """The first is the heading of the row headings."""
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Reasons, to which cells refer by number."""
    remarks: list[str] = field(default_factory=list)
    """Remarks on the whole table."""

    def note(self, reason: str | None) -> int | None:
        """The number of the note with this reason, which is added when it is new."""
        if reason is None:
            return None
        if reason not in self.notes:
            self.notes.append(reason)
        return self.notes.index(reason) + 1

    def metric(self, metric: Metric, show: Callable[[float], str] = number) -> Cell:
        """A metric with its interval, or a note on the missing value."""
        value, ends = metric["value"], metric["interval"]
        dash = " to " if ends and ends[0] < 0 else "–"
        second = dash.join(show(end) for end in ends) if ends else ""
        return Cell(DASH if value is None else show(value), second, self.note(metric["reason"]))

    def add(self, heading: str, metrics: Iterable[Metric], show: Callable[[float], str] = number) -> None:
        """Add a row of metrics."""
        self.rows.append((heading, [self.metric(metric, show) for metric in metrics]))


def key_table(results: RunResults) -> Table:
    """The metrics that are shown first, by seed."""
    table = Table(
        "key-numbers",
        f"Key numbers{results.over_folds}, with 95 % intervals",
        ["Measure", *_headings(results)],
    )
    for info in results.definitions.values():
        if "key_table" in info.shown:
            _add_info(table, info, results, results.accounts)
    return table


def _add_info(
    table: Table, info: MetricInfo, results: RunResults, accounts: Sequence[Mapping[str, Any]]
) -> None:
    found = [account[info.section].get(info.name) for account in accounts]
    if all(found):
        table.add(_without_folds(info.heading(), results), found, FORMATS[info.format])


def _headings(results: RunResults) -> list[str]:
    """Headings of the columns of `RunResults.accounts`."""
    metrics = results.metrics
    if results.external and len(metrics["pooled"]) == 1:
        return ["Value"]
    seeds = [f"Seed {seed['seed']}" for seed in metrics["pooled"]]
    return [*seeds, *(["Ensemble of the seeds"] if metrics["ensemble"] else [])]


def _without_folds(heading: str, results: RunResults) -> str:
    """The heading, without "within folds" when there is a single fold."""
    return heading if len(results.folds) > 1 else heading.replace(" within folds", "")


def pooled_table(results: RunResults) -> Table:
    """All metrics pooled over folds, by seed, and their mean and standard deviation over folds and seeds."""
    metrics, single = results.metrics, len(results.metrics["folds"]) == 1
    table = Table(
        "pooled",
        f"All metrics{results.over_folds}, with 95 % intervals",
        ["Metric", *_headings(results), *([] if single else ["Mean ± SD over folds and seeds"])],
    )
    for name, summary in metrics["summary"].items():
        table.add(results.heading(name), [account["metrics"][name] for account in results.accounts])
        if not single:
            table.rows[-1][1].append(_mean(table, summary))
    table.remarks += _truncations(results)
    return table


def _truncations(results: RunResults) -> list[str]:
    """Remarks on the metrics that count only events before a truncation time."""
    unit, stated = results.cohort["time_unit"], results.metrics["truncation"]
    whose = results.reference_cases if results.external else "each fold's training cases"
    remarks = []
    for name, found in results.first_seed["metrics"].items():
        by_fold = found.get("truncated_at_by_fold", {"": found.get("truncated_at")})
        known = [f"fold {k} {time(t)}".removeprefix("fold  ") for k, t in by_fold.items() if t is not None]
        if stated is not None:
            when = f"{time(stated)} {unit} (evaluation.truncation)"
        else:
            when = f"the 80th percentile of the event times of {whose}, in {unit}: {', '.join(known)}"
        if known:
            remarks.append(f"{results.definitions[name].title} counts events before {when}.")
    return remarks


def _mean(table: Table, summary: Summary) -> Cell:
    if summary["mean"] is None:
        return Cell(DASH, note=table.note(summary["note"]))
    deviation = summary["standard_deviation"]
    reason = summary["note"] or ("no standard deviation of a single fold" if deviation is None else None)
    return Cell(f"{number(summary['mean'])} ± {number(deviation)}", note=table.note(reason))


def selection_table(results: RunResults) -> Table:
    """Metrics with the epoch selected on inner validation cases, and on the test cases."""
    honest, optimistic = results.metrics, results.metrics["optimistic"]
    assert optimistic is not None
    table = Table(
        "selection",
        "Honest and optimistic selection of the epoch, in the same trainings, with 95 % intervals",
        ["Metric", *(f"{how}, seed {seed}" for seed in honest["seeds"] for how in ("Honest", "Optimistic"))],
    )
    pairs = zip(honest["pooled"], optimistic["pooled"], strict=True)
    accounts = [account for pair in pairs for account in pair]
    for name in honest["summary"]:
        table.add(results.heading(name), [account["metrics"][name] for account in accounts])
    return table


def fold_table(results: RunResults, seed: int) -> Table:
    """All metrics of each fold under one seed."""
    folds = [fold for fold in results.metrics["folds"] if fold["seed"] == seed]
    table = Table(
        f"folds-seed-{seed}",
        f"By fold, seed {seed}, with 95 % intervals",
        ["Metric", *(f"Fold {fold['fold']}" for fold in folds)],
    )
    table.rows.append(("Test cases", [Cell(str(fold["cases"])) for fold in folds]))
    table.rows.append(("Events", [Cell(str(fold["events"])) for fold in folds]))
    for name in folds[0]["metrics"]:
        table.add(results.heading(name), [fold["metrics"][name] for fold in folds])
    return table


def calibration_table(results: RunResults) -> Table:
    """D-calibration and calibration slopes, pooled over folds, by seed."""
    pooled, definitions = results.metrics["pooled"], results.definitions
    table = Table(
        "calibration", f"Calibration{results.over_folds}", ["Measure", *_headings(results)[: len(pooled)]]
    )
    _add_info(table, definitions["d_calibration"], results, pooled)
    for index, t in enumerate(results.metrics["times"]):
        heading = definitions["slope"].heading(f"{time_text(t)} {results.cohort['time_unit']}")
        table.add(heading, [account["calibration"]["at"][index]["slope"] for account in pooled])
    return table


def subgroup_table(results: RunResults, seed: int) -> Table:
    """Metrics of each subgroup under one seed, pooled over folds."""
    groups = [entry for entry in results.metrics["subgroups"] if entry["seed"] == seed]
    names = [
        name
        for name, info in results.definitions.items()
        if info.over != "times" and name in groups[0]["metrics"]
    ]
    hazard_ratio = results.definitions["hazard_ratio"].heading()
    table = Table(
        f"subgroups-seed-{seed}",
        f"By subgroup, seed {seed}{results.over_folds}, with 95 % intervals",
        ["Subgroup", "Cases", "Events", *map(results.heading, names), hazard_ratio],
        remarks=["The intervals are not adjusted for the number of subgroups."],
    )
    for entry in groups:
        table.add(f"{entry['column']}: {entry['value']}", [entry["metrics"][name] for name in names])
        cells = table.rows[-1][1]
        cells[:0] = [Cell(str(entry["cases"])), Cell(str(entry["events"]))]
        cells.append(table.metric(entry["high_against_low"]["hazard_ratio"], ratio))
    return table


def clinical_table(results: RunResults) -> Table:
    """The image risk compared with clinical variables, by seed."""
    comparisons = results.metrics["clinical"]
    first = comparisons[0]
    table = Table(
        "clinical",
        f"Image risk and clinical variables ({', '.join(first['columns'])}){results.over_folds}, with 95 % intervals",
        ["Measure", *(f"Seed {entry['seed']}" for entry in comparisons)],
        remarks=[
            f"{first['cases']} test cases with {first['events']} events; {first['excluded']} further cases are "
            "excluded because of missing clinical variables. The Cox models of clinical variables and of both are "
            "fitted on each fold's training cases. The likelihood-ratio test and the hazard ratio are from Cox models "
            "of the test cases, stratified by fold and adjusted for the clinical variables; they are approximate, "
            "since folds share training cases."
        ],
    )
    for name, heading in CLINICAL_MODELS.items():
        table.add(heading, [entry["harrell_c_index"][name] for entry in comparisons])
    for name, heading in CLINICAL_DIFFERENCES.items():
        table.add(heading, [entry["differences"][name] for entry in comparisons])
    table.add(
        "Likelihood-ratio p of the image risk, adjusted for clinical variables",
        [entry["likelihood_ratio_p_value"] for entry in comparisons],
        FORMATS["p_value"],
    )
    table.add(
        "Hazard ratio per standard deviation of the image risk, adjusted for clinical variables (1 is no effect)",
        [entry["hazard_ratio"] for entry in comparisons],
        ratio,
    )
    return table


def split_table(results: RunResults) -> Table:
    """Cases by fold and role, and the selected epochs."""
    seeds, history = results.metrics["seeds"], results.history
    table = Table(
        "splits",
        "Cases by fold, and the selected epoch",
        [
            "Fold",
            "Training cases",
            "Inner validation cases",
            "Test cases",
            *(f"Epoch, seed {seed}" for seed in seeds),
        ],
    )
    roles = results.splits.groupby(["fold", "role"]).size()
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
            _without_folds(results.definitions["hazard_ratio"].heading(), results),
        ],
    )
    for pooled in results.metrics["pooled"]:
        table.rows.append(
            (
                "All cases" if results.external else f"Seed {pooled['seed']}",
                _risk_groups(table, pooled, several),
            )
        )
        if ungrouped := pooled["risk_groups"]["ungrouped"]:
            table.remarks.append(
                f"Seed {pooled['seed']}: {ungrouped} cases without a finite risk are in neither group."
            )
    if several:
        table.remarks.append(
            "Within folds: stratified by fold, so that cases are compared only with cases of the same fold."
        )
    table.remarks.append("The interval of the hazard ratio is the Wald interval of a Cox model.")
    return table


def _risk_groups(table: Table, pooled: PooledAccount, several: bool) -> list[Cell]:
    groups, within = pooled["risk_groups"], pooled["high_against_low"]
    cells = []
    for group in (groups["high"], groups["low"]):
        cells += [Cell(str(group["cases"])), Cell(str(group["events"]))]
        cells.append(table.metric(group["median_survival"], time))
    tests = [groups["log_rank_p_value"], *([within["log_rank_p_value"]] if several else [])]
    cells += [table.metric(test, FORMATS["p_value"]) for test in tests]
    return [*cells, table.metric(within["hazard_ratio"], ratio)]
