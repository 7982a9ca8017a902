"""Metrics of plugins, from the registration to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milsurv.runs.finished import load_run
from tests.command import run_milsurv
from tests.conftest import WriteConfig
from tests.report.page import Page

PLUGIN = Path(__file__).parents[1] / "data" / "plugins" / "more_metrics.py"


def test_a_metric_of_a_plugin_is_shown_wherever_it_says(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config()
    run = run_milsurv("run", config, "--plugin", PLUGIN, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    finished = load_run(next((tmp_path / "workspace" / "runs" / "small").iterdir()))
    metrics = finished.results.metrics

    for fold in metrics["folds"]:
        somers, harrell = fold["metrics"]["somers_d"], fold["metrics"]["harrell_c_index"]
        if harrell["value"] is None:
            assert somers["value"] is None
            assert somers["reason"]
        else:
            assert somers["value"] == pytest.approx(2 * harrell["value"] - 1)
    (pooled,) = metrics["pooled"]
    folds = [(fold["cases"], fold["metrics"]["somers_d"]["value"]) for fold in metrics["folds"]]
    if all(value is not None for _, value in folds):
        mean = sum(cases * value for cases, value in folds if value is not None) / pooled["cases"]
        assert pooled["metrics"]["somers_d"]["value"] == pytest.approx(mean)
    died = [pooled["metrics"][f"died_at_{t:g}"]["value"] for t in metrics["times"]]
    predictions = finished.predictions
    expected = [((predictions["time"] <= t) & (predictions["event"] == 1)).mean() for t in metrics["times"]]
    assert died == pytest.approx(expected)
    assert pooled["metrics"]["failing"]["value"] is None
    assert "failing' of" in str(pooled["metrics"]["failing"]["reason"])
    assert "failed: KeyError: 'survival'" in str(pooled["metrics"]["failing"]["reason"])
    assert {row["name"] for row in finished.results.plugins if row["kind"] == "metric"} == {
        "somers_d",
        "died",
        "failing",
    }

    page = Page(finished.report)
    key_numbers = page.source.split('id="key-numbers-caption"')[1].split("</table>")[0]
    assert "Somers&#39; D &lt;of the test&gt; (higher is better, 0 is chance)" in key_numbers
    assert "Died" not in key_numbers
    assert (
        f"Died at {metrics['times'][0]:g} {finished.results.cohort['time_unit']} (lower is better)"
        in page.text
    )
    assert "Somers' D [" in page.text.split("Discrimination was measured by")[1]
    assert "Somers RH. A new asymmetric measure of association. 1962." in page.text
    assert finished.figure("performance_over_time").axes[-1].get_ylabel() == "Died"
    assert "  Somers' D" in run.stdout


def test_two_runs_are_compared_in_a_metric_of_a_plugin(write_config: WriteConfig, tmp_path: Path) -> None:
    for name, epochs in (("one", 1), ("other", 2)):
        config = write_config(name, training={"epochs": epochs})
        assert run_milsurv("run", config, cwd=tmp_path).returncode == 0
    runs = [tmp_path / "workspace" / "runs" / name for name in ("one", "other")]
    done = run_milsurv("compare", *runs, "--plugin", PLUGIN, "--bootstraps", 100, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["definitions"]) == ["harrell_c_index", "somers_d"]
    assert [pair["metric"] for pair in found["pairs"]] == ["harrell_c_index", "somers_d"]
    assert all("somers_d" in run for run in found["runs"])
    printed = run_milsurv("compare", *runs, "--plugin", PLUGIN, "--figure", "forest.svg", cwd=tmp_path)
    assert "of Somers' D" in printed.stdout
    assert (tmp_path / "forest.svg").is_file()


def test_a_metric_makes_another_evaluation_of_the_same_training(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config()
    for arguments in ([], ["--plugin", PLUGIN]):
        assert run_milsurv("run", config, *arguments, cwd=tmp_path).returncode == 0
    names = [path.name for path in (tmp_path / "workspace" / "runs" / "small").iterdir()]
    assert len(names) == 2
    assert len({name.partition("-")[0] for name in names}) == 1


def test_metrics_are_listed_and_verified(tmp_path: Path) -> None:
    done = run_milsurv(
        "list-plugins", "--kind", "metric", "--verify", "--json", "--plugin", PLUGIN, cwd=tmp_path
    )
    rows = json.loads(done.stdout)
    assert {row["name"]: row["status"] for row in rows} == dict.fromkeys(
        ("somers_d", "died", "failing"), "ok"
    )
