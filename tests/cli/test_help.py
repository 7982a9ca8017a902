"""What ``--help`` prints, for every command there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from milsurv.cli import app
from tests.command import start_milsurv


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _letters(text: str) -> str:
    """Without blanks, so that it does not matter where lines are wrapped."""
    return "".join(text.split())


def test_the_tree_is_whole() -> None:
    assert {("run",), ("predict",), ("evaluate",), ("features", "verify"), ("configs", "cp")} <= set(COMMANDS)


@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_says_every_word(path: tuple[str, ...], columns: str) -> None:
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": columns})
    assert done.exit_code == 0, done.output
    printed = _letters(done.stdout)
    command = COMMANDS[path]
    assert _letters(command.help) in printed
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        assert parameter.help, f"{parameter.name} has no help"
        assert _letters(parameter.help) in printed
        named = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
        assert all(name in printed for name in named)
    for child in getattr(command, "commands", {}).values():
        assert _letters(child.help.partition(".")[0].partition("\n\n")[0]) in printed


def test_brackets_are_printed(tmp_path: Path) -> None:
    process = start_milsurv("evaluate", "--help", cwd=tmp_path)
    printed, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "WORKSPACE/runs/NAME[/FINGERPRINT]" in printed
    assert "evaluation.subgroups=[sex]" in printed


def test_wrong_usage_is_told_with_its_brackets() -> None:
    for arguments in (["[/x]"], ["run", "--[/x]"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert "[/x]" in done.output


PLUGIN = '''"""A loss with [bold]brackets[/bold] and :smile:."""
import milsurv

@milsurv.hookimpl
def milsurv_register_losses(register):
    register("odd[/x]", "bracketed:Odd", summary="[bold]takes[/bold] a [b] :smile: [/FINGERPRINT]")
'''


def test_a_plugins_words_are_printed_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "bracketed.py").write_text(PLUGIN)
    arguments = ["list-plugins", "--kind", "loss", "--plugin", str(tmp_path / "bracketed.py")]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 0
    assert "odd[/x]" in done.stdout
    assert "[bold]takes[/bold] a [b] :smile: [/FINGERPRINT]" in done.stdout
