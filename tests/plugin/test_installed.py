"""Discovery of distributions that pip installed, in an environment of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milsurv import __version__
from tests.conftest import WriteConfig
from tests.environment import Environment

pytestmark = pytest.mark.acceptance

REGISTERING = """
from milsurv import hookimpl

@hookimpl
def milsurv_register_aggregators(register):
    register("{name}", "{target}", summary="made for a test")
"""
AGGREGATOR = """
from milsurv.aggregators.pooling import MeanPool

class Mine(MeanPool):
    "Mean of the patches."
"""
PLUGINS = {
    "good-mil": REGISTERING.format(name="goodmil", target="good_mil.model:Mine"),
    "telling-mil": '"""Writes nothing down."""\nfrom milsurv import hookimpl\n\n@hookimpl\n'
    "def milsurv_run_finished(folder):\n    pass\n",
    "raising-mil": "raise RuntimeError('no luck')",
    "exiting-mil": "raise SystemExit(3)",
    "needy-mil": "import a_module_that_nobody_installed",
    "lazy-needy-mil": REGISTERING.format(name="lazyneedy", target="lazy_needy_mil.absent:Mine"),
    "first-mil": REGISTERING.format(name="twice", target="first_mil.model:Mine"),
    "second-mil": REGISTERING.format(name="twice", target="second_mil.model:Mine"),
    "taking-mil": REGISTERING.format(name="abmil", target="taking_mil.model:Mine"),
    "misspelling-mil": REGISTERING.format(name="x", target="a:B").replace("aggregators", "agregators"),
    "unmarked-mil": REGISTERING.format(name="x", target="a:B").replace("@hookimpl", ""),
    "future-mil": "milsurv_api = 2\n" + REGISTERING.format(name="future", target="future_mil.model:Mine"),
    "half-mil": REGISTERING.format(name="half", target="half_mil.model:Mine")
    + "    raise ValueError('half way')\n",
}
"""Distribution -> its plugin module."""
SETUPTOOLS = "setuptools.build_meta"
"""The build backend that installs a folder as editable without another package."""
REASONS = {
    "raising-mil": "RuntimeError: no luck",
    "exiting-mil": "SystemExit: 3",
    "needy-mil": "ModuleNotFoundError: No module named 'a_module_that_nobody_installed'",
    "second-mil": "aggregator 'twice' is also registered by first-mil",
    "taking-mil": "aggregator 'abmil' is also registered by milsurv",
    "misspelling-mil": "there is no hook 'milsurv_register_agregators' "
    "(did you mean 'milsurv_register_aggregators'?)",
    "unmarked-mil": "the function 'milsurv_register_aggregators' is not marked with @milsurv.hookimpl",
    "future-mil": f"built for plugin API 2, but milsurv {__version__} has plugin API 1; "
    "install compatible versions of the plugin and of milsurv",
    "half-mil": "ValueError: half way",
}


def _package(folder: Path, distribution: str, source: str) -> Path:
    module = distribution.replace("-", "_")
    package = folder / distribution / module
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(source)
    (package / "model.py").write_text(AGGREGATOR)
    (package.parent / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{distribution}"\nversion = "1.2"\n'
        f'[project.entry-points.milsurv]\n{module} = "{module}.plugin"\n'
    )
    return package.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("installed")
    environment = Environment(folder / "environment")
    environment.install(*(_package(folder, name, source) for name, source in PLUGINS.items()))
    return environment


def _listed(environment: Environment, *options: str, **variables: str) -> dict[str, list[dict[str, str]]]:
    done = environment.milsurv("list-plugins", "--json", *options, **variables)
    assert done.returncode == 0, done.stderr
    rows: dict[str, list[dict[str, str]]] = {}
    for row in json.loads(done.stdout):
        rows.setdefault(row["distribution"], []).append(row)
    return rows


@pytest.fixture(scope="module")
def listed(environment: Environment) -> dict[str, list[dict[str, str]]]:
    return _listed(environment)


def test_every_distribution_is_listed(listed: dict[str, list[dict[str, str]]]) -> None:
    assert listed.keys() >= PLUGINS.keys()
    assert {row["status"] for row in listed["milsurv"]} == {"ok"}


def test_a_good_one_is_listed_by_what_it_registers(listed: dict[str, list[dict[str, str]]]) -> None:
    (good,) = listed["good-mil"]
    expected = {"kind": "aggregator", "name": "goodmil", "version": "1.2", "status": "ok", "reason": None}
    assert good == {**good, **expected}


def test_one_that_only_listens_is_listed_as_a_tracker(listed: dict[str, list[dict[str, str]]]) -> None:
    (row,) = listed["telling-mil"]
    expected = {"kind": "tracker", "name": "telling_mil", "summary": "Writes nothing down.", "status": "ok"}
    assert row == {**row, **expected}


@pytest.mark.parametrize("distribution", REASONS)
def test_a_broken_one_is_listed_with_its_reason(
    listed: dict[str, list[dict[str, str]]], distribution: str
) -> None:
    (row,) = listed[distribution]
    assert (row["status"], row["reason"]) == ("broken", REASONS[distribution])


def test_a_class_is_imported_when_it_is_verified_and_not_before(
    environment: Environment, listed: dict[str, list[dict[str, str]]]
) -> None:
    assert listed["lazy-needy-mil"][0]["status"] == "ok"
    verified = _listed(environment, "--verify")
    assert verified["good-mil"][0]["status"] == "ok"
    (needy,) = verified["lazy-needy-mil"]
    assert needy["status"] == "broken"
    assert "ModuleNotFoundError: No module named 'lazy_needy_mil.absent'" in needy["reason"]


@pytest.mark.parametrize(
    ("wanted", "loaded"),
    [("good_mil", {"good-mil"}), ("first-mil, good_mil", {"first-mil", "good-mil"}), ("", set())],
)
def test_loading_can_be_limited(environment: Environment, wanted: str, loaded: set[str]) -> None:
    others = _listed(environment, MILSURV_LOAD_PLUGINS=wanted).keys() & PLUGINS.keys()
    assert others == loaded


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("twice", ["registered by first-mil 1.2 and second-mil 1.2; uninstall one", "MILSURV_LOAD_PLUGINS"]),
        ("abmil", ["registered by milsurv", "and taking-mil 1.2"]),
        ("gone", ["unknown aggregator 'gone'", "raising-mil failed to load: RuntimeError: no luck"]),
        ("half", ["aggregator 'half' of half-mil is broken: ValueError: half way"]),
        ("lazyneedy", ["of lazy-needy-mil cannot be imported from lazy_needy_mil.absent:Mine"]),
    ],
)
def test_a_run_that_asks_for_a_broken_one_is_told_why(
    environment: Environment, name: str, told: list[str]
) -> None:
    done = environment.milsurv("check", "demo", "--set", f"aggregator.name={name}")
    assert done.returncode == 2
    for text in told:
        assert text in done.stderr


def test_a_run_that_asks_for_none_of_them_is_not_stopped(environment: Environment, tmp_path: Path) -> None:
    options = ["--workspace", str(tmp_path), "--set", "aggregator={name: goodmil}"]
    done = environment.milsurv("check", "demo", *options)
    assert done.returncode == 0, done.stderr


def test_what_is_not_loaded_is_hinted_at(environment: Environment) -> None:
    done = environment.milsurv("check", "demo", "--set", "aggregator.name=goodmil", MILSURV_LOAD_PLUGINS="")
    assert done.returncode == 2
    assert "MILSURV_LOAD_PLUGINS= limits what is loaded" in done.stderr


def test_an_editable_plugin_that_changes_is_run_again(tmp_path: Path, write_config: WriteConfig) -> None:
    """A comment and the version change nothing; the output, also that of a helper module, does."""
    hook = REGISTERING.format(name="edited", target="edited_mil.model:Mine")
    package = _package(tmp_path, "edited-mil", hook) / "edited_mil"
    (package / "helper.py").write_text("FACTOR = 1\n")
    forward = "\n    def forward(self, bag):\n        return super().forward(bag) * FACTOR\n"
    (package / "model.py").write_text(f"from edited_mil.helper import FACTOR\n{AGGREGATOR}{forward}")
    project = package.parent / "pyproject.toml"
    project.write_text(
        project.read_text().replace('"hatchling"', '"setuptools"').replace("hatchling.build", SETUPTOOLS)
    )
    environment = Environment(tmp_path / "environment")
    environment.install(package.parent, editable=True)
    config = write_config(aggregator={"name": "edited"}, training={"epochs": 1}, evaluation={"bootstraps": 0})

    def run() -> set[str]:
        done = environment.milsurv("run", str(config), "--fold", "0", "--quiet")
        assert done.returncode == 0, done.stderr
        return {path.name for path in (tmp_path / "workspace" / "runs" / "small").iterdir()}

    first = run()
    with (package / "model.py").open("a") as file:
        file.write("# a comment\n")
    project.write_text(project.read_text().replace("1.2", "1.3"))
    environment.install(package.parent, editable=True)
    assert run() == first
    (package / "helper.py").write_text("FACTOR = -9\n")
    again = run()
    assert len(again) == 2
    predictions = [path.read_bytes() for path in (tmp_path / "workspace").rglob("fold_0/predictions.csv")]
    assert len(set(predictions)) == 2
    (plugins,) = (
        json.loads((tmp_path / "workspace/runs/small" / name / "plugins.json").read_text()) for name in first
    )
    assert [(row["version"], row["earlier"]) for row in plugins if row["name"] == "edited"] == [
        ("1.3", ["1.2"])
    ]
