from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from milsurv.config.loading import bundled_configs
from milsurv.config.schema import config_schema
from milsurv.plugin.registry import get_registry
from milsurv.storage.documents import compose_yaml, construct_yaml
from tests.conftest import COLOUR_BACKBONE, small_config

BROKEN = """
from milsurv import hookimpl

@hookimpl
def milsurv_register_losses(register):
    register("gone", "nowhere_to_be_found:Loss", summary="made for a test")
"""
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"trainning": {}}, "trainning"),
    ({"training": {"epochs": 0}}, "0 is less than the minimum"),
    ({"training": {"epoch": 5}}, "epoch"),
    ({"training": {"optimizer": "sgd"}}, "sgd"),
    ({"seeds": 1}, "not of type 'array'"),
    ({"features": {"import": "there", "layout": "tridnt"}}, "tridnt"),
    ({"aggregator": {"name": "crossfuson"}}, "crossfuson"),
    ({"aggregator": {"name": "abmil", "num_heads": 2}}, "num_heads"),
    ({"loss": {"bins": 3}}, "bins"),
    ({"cohort": {"slides": "there"}}, "slides"),
    ({"cohort": {"source": "synthetic", "table": "a.csv"}}, "table"),
]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = config_schema(get_registry((COLOUR_BACKBONE,)))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("file", bundled_configs().values(), ids=lambda file: file.stem)
def test_bundled_configurations_are_valid(validator: Draft202012Validator, file: Path) -> None:
    validator.validate(construct_yaml(compose_yaml(file.read_text())))


def test_the_settings_of_a_local_plugin_belong_to_it(validator: Draft202012Validator, tmp_path: Path) -> None:
    validator.validate(yaml.safe_load(yaml.safe_dump(small_config(tmp_path, tmp_path))))


@pytest.mark.parametrize(("change", "message"), WRONG, ids=str)
def test_an_invalid_configuration_is_rejected(
    validator: Draft202012Validator, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    errors = list(validator.iter_errors(small_config(tmp_path, tmp_path) | change))
    assert errors
    assert message in str(errors)


def test_every_property_has_a_description(validator: Draft202012Validator) -> None:
    schema = validator.schema
    assert isinstance(schema, dict)
    models = [schema, *schema["$defs"].values()]
    properties = [(m["title"], key, p) for m in models for key, p in m["properties"].items()]
    own = [(title, key) for title, key, p in properties if "description" not in p and "colour" not in title]
    assert own == []


def test_a_broken_plugin_is_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "registers_nothing.py"
    broken.write_text(BROKEN)
    schema = config_schema(get_registry((broken,)))
    assert "loss_nll" in schema["$defs"]
    assert "loss_gone" not in schema["$defs"]
