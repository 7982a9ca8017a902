"""A finished run for notebooks: tables as DataFrames, figures as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from milsurv.report.gallery import draw
from milsurv.report.results import RunResults
from milsurv.runs.folder import find_run
from milsurv.storage.run_files import REPORT


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as returned by :func:`load_run`."""

    folder: Path

    @cached_property
    def results(self) -> RunResults:
        """The files of the folder, among them ``metrics.json`` as a dict."""
        return RunResults.read(self.folder)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per test case, fold and seed: ``case_id, fold, time, event, risk, seed, high_risk,
        standardized_risk, survival_at_T…``, times in the cohort's unit."""
        return self.results.predictions

    @property
    def slides(self) -> pd.DataFrame:
        """A row per slide of the cohort: used, or excluded with the reason."""
        return self.results.slides

    @property
    def splits(self) -> pd.DataFrame:
        """``case_id, fold, role``; empty for an external validation."""
        return self.results.splits

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch, fold and seed; empty for an external validation."""
        return self.results.history

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row per metric: ``of`` (fold, pooled, ensemble or subgroup), ``seed``, ``fold``, ``column`` and ``group``
        (of a subgroup), ``cases``, ``events``, ``metric``, ``value``, ``lower``, ``upper`` (95 % interval), ``reason``
        why there is no value or interval."""
        return pd.DataFrame(list(_rows(self.results.metrics)))

    @property
    def report(self) -> Path:
        """The page ``report.html``."""
        return self.folder / REPORT

    def figure(self, name: str) -> Figure:
        """One of the report's figures. Raises MilsurvError, listing all names, for an unknown one."""
        return draw(name, self.results)


def load_run(path: str | Path) -> FinishedRun:
    """The finished run or external validation in a folder: WORKSPACE/runs/NAME, or one of the folders in it.

    Raises MilsurvError when it is not finished, or when there are several.
    """
    return FinishedRun(find_run(Path(path)))


def _rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    accounts = [
        *(("fold", account) for account in metrics["folds"]),
        *(("pooled", account) for account in metrics["pooled"]),
        *(("subgroup", account) for account in metrics["subgroups"]),
        *([("ensemble", metrics["ensemble"])] if metrics["ensemble"] else []),
    ]
    for of, account in accounts:
        for name, metric in account["metrics"].items():
            lower, upper = metric["interval"] or (None, None)
            yield {
                "of": of,
                "seed": account.get("seed"),
                "fold": account.get("fold"),
                "column": account.get("column"),
                "group": account.get("value"),
                "cases": account["cases"],
                "events": account["events"],
                "metric": name,
                "value": metric["value"],
                "lower": lower,
                "upper": upper,
                "reason": metric["reason"],
            }
