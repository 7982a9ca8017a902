"""The table of metrics, and metrics of plugins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milsurv import MetricSpec
from milsurv.errors import PluginError
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.metrics import METRICS, OTHERS, definitions, heading, read_definitions
from milsurv.evaluation.pairs import c_index
from milsurv.evaluation.plugin_metrics import bootstrapped, plugin_metrics
from milsurv.plugin.registry import Registry

REGISTERING = """
from milsurv import MetricSpec, hookimpl

@hookimpl
def milsurv_register_metrics(register):
    register("{name}", "{target}", summary="made for a test")

SPEC = MetricSpec(name="{spec_name}", title="Mine", function=len)
"""


def test_definitions_survive_json() -> None:
    found = read_definitions({"definitions": json.loads(json.dumps(definitions()))})
    assert list(found) == [info.name for info in (*METRICS, *OTHERS)]
    assert found == read_definitions({}), "those of an earlier metrics.json, which had none"
    assert list(found["brier_score"].shown) == ["curve"]
    assert heading(found, "brier_score_at_24.5", "months") == "Brier score at 24.5 months (lower is better)"
    assert heading(found, "uno_c_index", "days") == "Uno's C-index (higher is better, 0.5 is chance)"
    assert heading(found, "of_a_later_version", "days") == "of a later version"


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for info in (*METRICS, *OTHERS):
        at = "_at_<t>" if info.over == "times" and info.section == "metrics" else ""
        assert f"`{info.name}{at}`" in page, info.name


def test_a_plain_function_is_bootstrapped_like_harrells_c(study: Callable[..., Any]) -> None:
    """Harrell's C itself as the plain function, in one fold: the same value and the same interval."""
    made = study(1, cases=40, bootstraps=60)
    mine = MetricSpec(name="mine", title="Mine", function=bootstrapped(c_index))
    found = evaluate(made.predictions, made.training, made.times, made.settings, metrics=[METRICS[0], mine])
    metrics = found["pooled"][0]["metrics"]
    assert metrics["mine"]["value"] == pytest.approx(metrics["harrell_c_index"]["value"])
    assert metrics["mine"]["interval"] == pytest.approx(metrics["harrell_c_index"]["interval"])


def test_folds_of_a_plain_function_are_weighted_by_cases(study: Callable[..., Any]) -> None:
    strata = study(0, cases=50, folds=3, bootstraps=2).strata
    values = bootstrapped(lambda time, event, risk: float(time.sum() + event.sum() + risk.sum()))(strata)
    expected = [len(s.time) * (s.time.sum() + s.event.sum() + s.risk.sum()) for s in strata]
    assert values.shape == (3,)
    assert values[0] == pytest.approx(sum(expected) / 50)


def _registry(folder: Path, name: str, spec_name: str, target: str = "{stem}:SPEC") -> Registry:
    file = folder / f"{folder.name}.py"
    file.write_text(REGISTERING.format(name=name, spec_name=spec_name, target=target.format(stem=file.stem)))
    return Registry([file])


def test_a_name_of_a_built_in_metric_is_refused(tmp_path: Path) -> None:
    name = METRICS[0].name
    with pytest.raises(PluginError, match="has the name of a built-in metric; rename or uninstall it"):
        plugin_metrics(_registry(tmp_path, name, name))


@pytest.mark.parametrize(
    ("spec_name", "target", "reason"),
    [
        ("other", "{stem}:SPEC", "must be a milsurv.MetricSpec with this name"),
        ("mine", "{stem}:hookimpl", "must be a milsurv.MetricSpec with this name"),
        ("mine", "{stem}:MISSING", "cannot be imported"),
        ("mine", "{stem}:SPEC", "returned an array of shape (), not (1,)"),
    ],
)
def test_a_metric_that_is_none_has_no_value_but_a_reason(
    tmp_path: Path, study: Callable[..., Any], spec_name: str, target: str, reason: str
) -> None:
    (spec,) = plugin_metrics(_registry(tmp_path, "mine", spec_name, target))
    made = study(0)
    (pooled,) = evaluate(made.predictions, made.training, made.times, made.settings, metrics=[spec])["pooled"]
    assert pooled["metrics"]["mine"]["value"] is None
    assert reason in str(pooled["metrics"]["mine"]["reason"])


@pytest.mark.parametrize("name", ["Mine", "mine_at_5", "", "a b"])
def test_a_name_that_metrics_json_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="invalid metric name"):
        MetricSpec(name=name, title="Mine", function=METRICS[0].function)
