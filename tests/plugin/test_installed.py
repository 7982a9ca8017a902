"""Discovery of installed distributions, in an interpreter that finds them on its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
from milsurv import hookimpl

@hookimpl
def milsurv_register_aggregators(register):
    register("{name}", "{module}:Aggregator", summary="made for a test")
"""


def _install(site: Path, distribution: str, source: str) -> None:
    """Lay out a distribution as pip does: module, metadata, entry point."""
    module = distribution.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[milsurv]\n{module} = {module}\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    _install(tmp_path, "good-mil", GOOD.format(name="goodmil", module="good_mil"))
    _install(tmp_path, "failing-mil", "raise RuntimeError('no luck')")
    _install(tmp_path, "first-mil", GOOD.format(name="twice", module="first_mil"))
    _install(tmp_path, "second-mil", GOOD.format(name="twice", module="second_mil"))
    return tmp_path


def _list(site: Path, **environment: str) -> dict[str, list[dict[str, str]]]:
    command = [sys.executable, "-m", "milsurv", "list-plugins", "--json"]
    env = {**os.environ, "PYTHONPATH": str(site), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    rows: dict[str, list[dict[str, str]]] = {}
    for row in json.loads(done.stdout):
        rows.setdefault(row["distribution"], []).append(row)
    return rows


def test_each_distribution_stands_for_itself(site: Path) -> None:
    found = _list(site)
    (good,) = found["good-mil"]
    assert (good["kind"], good["name"], good["status"], good["version"]) == (
        "aggregator",
        "goodmil",
        "ok",
        "1.2",
    )
    (failing,) = found["failing-mil"]
    assert (failing["status"], failing["reason"]) == ("broken", "RuntimeError: no luck")
    assert {row["status"] for row in found["milsurv"]} == {"ok"}
    assert [found["first-mil"][0]["status"], found["second-mil"][0]["status"]] == ["ok", "broken"]
    assert "registered by first-mil too" in found["second-mil"][0]["reason"]


@pytest.mark.parametrize(("wanted", "loaded"), [("good_mil", {"good-mil"}), ("", set())])
def test_loading_can_be_limited(site: Path, wanted: str, loaded: set[str]) -> None:
    assert set(_list(site, MILSURV_LOAD_PLUGINS=wanted)) == {"milsurv"} | loaded


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("twice", "aggregator 'twice' is registered by first-mil 1.2 and second-mil 1.2; uninstall one"),
        ("gone", "failing-mil failed to load: RuntimeError: no luck"),
    ],
)
def test_a_run_that_asks_for_a_broken_plugin_is_told_why(site: Path, name: str, reason: str) -> None:
    command = [sys.executable, "-m", "milsurv", "check", "demo", "--set", f"aggregator.name={name}"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert reason in done.stderr
