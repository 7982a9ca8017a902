"""What a report says of baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milsurv.evaluation.baselines import Baseline
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import evaluation_times
from milsurv.report.baselines import shortfall
from milsurv.report.html import write_report
from milsurv.report.methods import methods
from milsurv.report.results import RunResults
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import write_checked
from tests.report.make_run import make_config, make_follow_up, make_run
from tests.report.page import Page


def _compared(folder: Path, noise: float, **sections: Any) -> RunResults:
    """A run whose baselines have the true risk and ``noise``; clinical variables are missing in ten cases."""
    config = make_config(folder, evaluation={"bootstraps": 50, "clinical": ["age"]}, **sections)
    follow_up = make_follow_up(60, 2)
    predictions = make_run(folder / "run", config, follow_up)
    times = evaluation_times(follow_up["time"], follow_up["event"], config.evaluation)
    training = {
        fold: TrainingFollowUp(rows["time"].to_numpy(), rows["event"].to_numpy())
        for fold, rows in ((k, follow_up[follow_up["fold"] != k]) for k in (0, 1))
    }
    rows = predictions.drop_duplicates("case_id")
    risk = rows["true_risk"] + noise * np.random.default_rng(0).normal(size=len(rows))
    rows = rows.assign(risk=risk).drop(columns=["seed", "high_risk", "standardized_risk"])
    baselines = [Baseline("mean_features", rows), Baseline("clinical", rows.iloc[:50])]
    found = evaluate(predictions, training, times, config.evaluation, baselines=baselines)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    write_checked(folder / "run" / "metrics.json", json_text({**metrics, "baselines": found["baselines"]}))
    write_report(folder / "run", config, [])
    return RunResults.read(folder / "run")


@pytest.mark.parametrize(("noise", "better"), [(0.0, False), (20.0, True)])
def test_the_first_lines_say_whether_the_model_is_better(noise: float, better: bool, tmp_path: Path) -> None:
    results = _compared(tmp_path, noise)
    page = Page(tmp_path / "run" / "report.html")
    first, second = results.baselines
    header = page.text.split("On this page")[0].split("Skip to the page")[1]
    difference: Any = first["differences"]["harrell_c_index"]
    assert (difference["value"] > 0) == better
    assert f"model − baseline {difference['value']:.3f} ({difference['interval'][0]:.3f}" in header
    assert "Baseline, Cox model of mean features: Harrell's C" in header
    assert "on the 50 cases with all clinical variables." in header
    assert ("Not better than a baseline." in header) != better
    assert (shortfall(first) is None) == better
    assert (shortfall(second) or "the model does not").startswith("the model does not beat") or better


def test_the_table_has_the_baseline_the_model_and_their_difference(tmp_path: Path) -> None:
    results = _compared(tmp_path, 1.0)
    page = Page(tmp_path / "run" / "report.html")
    table = page.source.split('id="baselines-caption"')[1].split("</table>")[0]
    for comparison in results.baselines:
        for found in (comparison["baseline"], comparison["model"], comparison["differences"]):
            assert f"{found['harrell_c_index']['value']:.3f}" in table
    assert "Integrated Brier score (lower is better)" in table
    assert "Kaplan-Meier" not in table.replace("0 is Kaplan-Meier", "")
    assert "50 test cases with" in page.text
    assert "10 without all clinical variables are excluded" in page.text


def test_the_methods_tell_of_baselines_and_of_a_fitted_model(tmp_path: Path) -> None:
    results = _compared(tmp_path, 1.0, aggregator={"name": "mean_cox"})
    evaluation = {"bootstraps": 50, "clinical": ["age"]}
    config = make_config(tmp_path, aggregator={"name": "mean_cox"}, evaluation=evaluation)
    found = methods(config, results)
    text = " ".join(found.paragraphs)
    assert "cross-validated partial likelihood [" in text
    assert any(work.startswith("Verweij") for work in found.citations)
    assert "principal components of mean patch features, was fitted" in text
    assert "epoch" not in text


def test_a_difference_that_is_not_known_is_no_shortfall() -> None:
    unknown: Any = {"value": None, "interval": None, "reason": "no events"}
    comparison: Any = {"name": "clinical", "differences": {"harrell_c_index": unknown}}
    assert shortfall(comparison) is None


def test_pages_of_runs_without_baselines_are_as_before(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_run(tmp_path / "run", config, make_follow_up(30, 2))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    del metrics["baselines"]
    write_checked(tmp_path / "run" / "metrics.json", json_text(metrics))
    write_report(tmp_path / "run", config, [])
    assert "Baseline, " not in Page(tmp_path / "run" / "report.html").text
