"""Commands of plugins that an entry point installs, called in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
from milsurv import hookimpl

@hookimpl
def milsurv_register_commands(register):
    register("survey", "survey_app:app", summary="count slides by scanner")
    register("older", "survey_app:clicked", summary="a click command")
    register("run", "survey_app:app", summary="would replace a built-in command")
    register("gone", "survey_app:nothing", summary="is not there")
"""
APP = """
import sys
from pathlib import Path
import click
import typer
from milsurv import MilsurvError

app = typer.Typer()

@app.command()
def survey(folder: Path, deep: bool = False):
    "Count slides by scanner."
    if not folder.is_dir():
        raise MilsurvError(f"{folder}: no such folder")
    print(folder.name, deep, "torch" in sys.modules)
    raise typer.Exit(3)

@click.command()
@click.option("--times", default=1)
def clicked(times):
    print("clicked" * times)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with two distributions, of which one cannot be imported."""
    folder = tmp_path_factory.mktemp("installed")
    for module, source in (("survey_plugin", PLUGIN), ("raising_plugin", "raise RuntimeError('no luck')")):
        (folder / f"{module}.py").write_text(source)
        information = folder / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[milsurv]\n{module} = {module}\n")
    (folder / "survey_app.py").write_text(APP)
    return folder


def _milsurv(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    command = [sys.executable, "-m", "milsurv", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_lists_commands_by_their_summary_and_survives_a_broken_plugin(installed: Path) -> None:
    done = _milsurv(installed, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(
        line.strip().split(maxsplit=1)
        for line in done.stdout.splitlines()
        if line.startswith("  ") and len(line.split()) > 1
    )
    assert listed["survey"] == "count slides by scanner"
    assert listed["older"] == "a click command"
    assert listed["run"] != "would replace a built-in command"


def test_a_typer_app_gets_its_arguments_and_its_exit_status_counts(installed: Path, tmp_path: Path) -> None:
    done = _milsurv(installed, "survey", str(tmp_path), "--deep")
    assert (done.returncode, done.stdout) == (3, f"{tmp_path.name} True False\n"), done.stderr


def test_help_of_the_command_is_its_own(installed: Path) -> None:
    done = _milsurv(installed, "survey", "--help")
    assert done.returncode == 0
    assert "milsurv survey" in done.stdout
    assert "--deep" in done.stdout


def test_an_error_of_milsurv_is_one_line(installed: Path) -> None:
    done = _milsurv(installed, "survey", "nowhere")
    assert (done.returncode, done.stderr) == (2, "error: nowhere: no such folder\n")


def test_a_click_command_works_too(installed: Path) -> None:
    done = _milsurv(installed, "older", "--times", "2")
    assert (done.returncode, done.stdout) == (0, "clickedclicked\n"), done.stderr


def test_a_command_that_cannot_be_imported_is_one_line(installed: Path) -> None:
    done = _milsurv(installed, "gone")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: command 'gone' of survey_plugin cannot be imported from survey_app:nothing"
    )


def test_list_plugins_reports_what_is_broken(installed: Path) -> None:
    done = _milsurv(installed, "list-plugins", "--json", "--verify")
    assert done.returncode == 0
    reasons = {(row["kind"], row["name"]): row["reason"] for row in json.loads(done.stdout)}
    assert reasons["command", "survey"] is None
    assert reasons["command", "older"] is None
    assert reasons["command", "run"] == "milsurv has a built-in command 'run'"
    assert "cannot be imported" in reasons["command", "gone"]
    assert reasons["-", "raising_plugin"] == "RuntimeError: no luck"


def test_a_built_in_command_stays_what_it_is(installed: Path) -> None:
    done = _milsurv(installed, "run", "--help")
    assert done.returncode == 0
    assert "CONFIG" in done.stdout


def test_an_unknown_command_is_refused(installed: Path) -> None:
    done = _milsurv(installed, "servey")
    assert done.returncode == 2
    assert "servey" in done.stderr
