"""Names and values that MLflow takes, and nothing lost on the way to them."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from milsurv_mlflow.values import LONGEST_NAME, LONGEST_VALUE, parameters, results

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab 1é", max_size=8)
names = st.text("ab_1-.:/ é", max_size=4)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
configs = st.dictionaries(st.sampled_from(["name", "cohort", "training"]), values, max_size=3)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _look_up(config: Any, name: str) -> Any:
    for step in name.split("."):
        config = config[step]
    return config


def _leaves(value: Any) -> int:
    """How many values stand in nested dictionaries, each counted once."""
    return sum(map(_leaves, value.values())) if isinstance(value, dict) and value else 1


@given(configs)
def test_each_parameter_is_the_setting_of_that_name(config: dict[str, Any]) -> None:
    settings = {name: _look_up(config, name) for name in parameters(config)}
    assert {name: _as_text(setting) for name, setting in settings.items()} == parameters(config)
    assert sum(map(_leaves, settings.values())) == (_leaves(config) if config else 0)


def test_settings_have_joined_names_and_values_as_yaml_has_them() -> None:
    config = {
        "name": "demo",
        "seeds": [1, 2],
        "training": {"learning_rate": 1e-4, "patience": None, "fast": True},
    }
    assert parameters(config) == {
        "name": "demo",
        "seeds": "[1, 2]",
        "training.learning_rate": "0.0001",
        "training.patience": "null",
        "training.fast": "true",
    }


def test_a_section_with_keys_that_mlflow_refuses_is_one_parameter() -> None:
    config = {
        "aggregator": {"name": "mine", "weights": {"5×": 1.0, "10x": 2.0}, "heads": {"a.b": 1}, "none": {}}
    }
    assert parameters(config) == {
        "aggregator.name": "mine",
        "aggregator.weights": '{"5×": 1.0, "10x": 2.0}',
        "aggregator.heads": '{"a.b": 1}',
        "aggregator.none": "{}",
    }


def test_names_and_values_stay_within_the_limits() -> None:
    just, over = "k" * (LONGEST_NAME - len("loss.")), "k" * (LONGEST_NAME - len("loss.") + 1)
    assert parameters({"loss": {just: 1}}) == {f"loss.{just}": "1"}
    assert parameters({"loss": {over: 1}}) == {"loss": json.dumps({over: 1})}
    assert parameters({"name": "v" * LONGEST_VALUE}) == {"name": "v" * LONGEST_VALUE}
    assert parameters({"name": "v" * LONGEST_VALUE + "w"}) == {"name": "v" * (LONGEST_VALUE - 1) + "…"}


def test_what_is_null_with_a_reason_is_no_result() -> None:
    def metric(value: float | None, interval: list[float] | None) -> dict[str, Any]:
        return {"value": value, "interval": interval, "reason": "a reason"}

    first = {"uno_c_index": metric(None, None), "harrell_c_index": metric(0.0, [0.0, 0.5])}
    second = {"uno_c_index": metric(0.6, None), "harrell_c_index": metric(0.7, [0.6, 0.8])}
    summary = {
        "uno_c_index": {"mean": 0.6, "standard_deviation": None, "folds": 1, "note": "left out 1 of 2 folds"},
        "harrell_c_index": {"mean": 0.35, "standard_deviation": 0.0, "folds": 2, "note": None},
    }
    pooled = [{"seed": 1, "metrics": first}, {"seed": 7, "metrics": second}]
    assert results({"pooled": pooled, "summary": summary}) == {
        "seed_1/pooled/harrell_c_index": 0.0,
        "seed_1/pooled/harrell_c_index_lower": 0.0,
        "seed_1/pooled/harrell_c_index_upper": 0.5,
        "seed_7/pooled/uno_c_index": 0.6,
        "seed_7/pooled/harrell_c_index": 0.7,
        "seed_7/pooled/harrell_c_index_lower": 0.6,
        "seed_7/pooled/harrell_c_index_upper": 0.8,
        "summary/uno_c_index_mean": 0.6,
        "summary/harrell_c_index_mean": 0.35,
        "summary/harrell_c_index_standard_deviation": 0.0,
    }
