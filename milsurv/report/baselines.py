"""Baselines in words, and their table."""

from __future__ import annotations

from milsurv.evaluation.metrics import AT, HARRELL
from milsurv.evaluation.schema import BaselineComparison
from milsurv.report.formatting import number, with_interval
from milsurv.report.results import RunResults
from milsurv.report.tables import Table

TITLES = {"mean_features": "Cox model of mean features", "clinical": "Cox model of clinical variables"}


def title(comparison: BaselineComparison) -> str:
    """The baseline's name for display."""
    return TITLES.get(comparison["name"], comparison["name"])


def shortfall(comparison: BaselineComparison) -> str | None:
    """A warning if the model's C-index is not above the baseline's; None if it is, or is not known."""
    difference = comparison["differences"][HARRELL.name]
    if difference["value"] is None or difference["value"] > 0:
        return None
    model, baseline = (number(comparison[of][HARRELL.name]["value"]) for of in ("model", "baseline"))
    interval = "95 % interval in parentheses" if difference["interval"] else difference["reason"]
    return (
        f"the model does not beat the baseline '{title(comparison)}': {HARRELL.label} {model} against {baseline}, "
        f"difference {with_interval(difference)}; {interval}"
    )


def baseline_table(results: RunResults) -> Table:
    """Each baseline, the model on the same cases, and their paired difference."""
    comparisons = results.baselines
    seed = comparisons[0]["seed"]
    model = "ensemble of the seeds" if seed is None else f"model of seed {seed}"
    columns = [
        heading
        for comparison in comparisons
        for heading in (title(comparison), "The model on these cases", "Model − baseline")
    ]
    table = Table(
        "baselines",
        f"Baselines and the {model} on the same folds and cases{results.over_folds}, with 95 % intervals",
        ["Measure", *columns],
    )
    for name in comparisons[0]["differences"]:
        if "key_table" not in results.definitions[name.partition(AT)[0]].shown:
            continue
        found = [c[of][name] for c in comparisons for of in ("baseline", "model", "differences")]
        table.add(results.heading(name), found)
    for comparison in comparisons:
        cases = f"{comparison['cases']} test cases with {comparison['events']} events"
        excluded = comparison["excluded"]
        missing = f"; {excluded} without all clinical variables are excluded" if excluded else ""
        table.remarks.append(f"{title(comparison)}: {cases}{missing}.")
    table.remarks.append("Differences are paired: each bootstrap resample draws the same cases for both.")
    return table
