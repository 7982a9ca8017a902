"""A new plugin's package works as it stands: it installs, keeps the contract, is listed, and is well-formed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from milsurv.errors import MilsurvError
from milsurv.plugin.registry import get_registry
from milsurv.scaffold import Kind, new_plugin
from tests.environment import Environment

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {kind: new_plugin(kind, f"my_{kind}", folder, get_registry()) for kind in KINDS}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, packages: dict[str, Path]) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(*packages.values())
    return environment


@pytest.mark.parametrize("kind", KINDS)
def test_the_package_keeps_the_contract(
    environment: Environment, packages: dict[str, Path], kind: str
) -> None:
    done = environment.run(str(environment.python), "-m", "pytest", "-q", cwd=packages[kind])
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


def test_the_plugins_are_listed_and_verified(environment: Environment) -> None:
    rows = json.loads(environment.milsurv("list-plugins", "--verify", "--json").stdout)
    found = {
        row["name"]: (row["kind"], row["distribution"], row["status"])
        for row in rows
        if row["name"].startswith("my_")
    }
    assert found == {f"my_{kind}": (kind, f"milsurv-my-{kind}", "ok") for kind in KINDS}


def test_the_demo_takes_them(environment: Environment, tmp_path: Path) -> None:
    names = [option for kind in KINDS for option in ("--set", f"{kind}.name=my_{kind}")]
    done = environment.milsurv("check", "demo", "--workspace", str(tmp_path), *names)
    assert done.returncode == 0, done.stderr


@pytest.mark.acceptance
def test_the_sources_are_well_formed_and_typed(packages: dict[str, Path]) -> None:
    folder = packages["loss"].parent
    style = ["--isolated", "--line-length", "110"]
    for command in (
        *(
            ["ruff", "check", *style, "--select", "E,F,I,B,UP,N,RUF", "--ignore", "RUF002", str(package)]
            for package in packages.values()
        ),
        ["ruff", "format", "--check", *style, "."],
        ["mypy", "--strict", "--config-file=", *(str(package / "src") for package in packages.values())],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_licence_is_milsurvs(packages: dict[str, Path]) -> None:
    licence = (Path(__file__).parents[2] / "LICENSE").read_text()
    assert {(package / "LICENSE").read_text() for package in packages.values()} == {licence}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("My-Mil", "'My-Mil' is not a valid plugin name: start with a lower-case letter"),
        ("../up", "not a valid plugin name"),
        ("abmil", "aggregator 'abmil' already exists in milsurv"),
        ("twice", "milsurv-twice already exists; remove it"),
    ],
)
def test_a_name_that_will_not_do_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "milsurv-twice").mkdir()
    with pytest.raises(MilsurvError, match=problem):
        new_plugin("aggregator", name, tmp_path, get_registry())
    assert [path.name for path in tmp_path.iterdir()] == ["milsurv-twice"]
