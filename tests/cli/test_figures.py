from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.errors import MilsurvError
from milsurv.report.gallery import FIGURES
from tests.report.make_run import make_config, make_follow_up, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``runs/NAME`` with one finished run in it."""
    workspace = tmp_path_factory.mktemp("workspace")
    make_run(workspace / "runs" / "made-up" / "0123", make_config(workspace), make_follow_up(30, 2))
    return workspace / "runs" / "made-up"


def test_figures_are_written_into_the_run_and_named(run: Path) -> None:
    done = CliRunner().invoke(app, ["figures", str(run)], catch_exceptions=False)
    assert done.exit_code == 0
    written = [run / "0123" / "figures" / f"{name}.png" for name in FIGURES]
    assert done.output.split() == [str(path) for path in written]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_format_and_folder_can_be_chosen(run: Path, tmp_path: Path) -> None:
    command = ["figures", str(run / "0123"), "--format", "svg", "-o", str(tmp_path / "paper")]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "paper").iterdir()) == sorted(
        f"{name}.svg" for name in FIGURES
    )


def test_an_unknown_format_is_refused(run: Path) -> None:
    done = CliRunner().invoke(app, ["figures", str(run), "--format", "bmp"])
    assert done.exit_code == 2
    assert not list(run.glob("*/figures/*.bmp"))


def test_a_folder_without_a_finished_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MilsurvError, match="no finished run"):
        CliRunner().invoke(app, ["figures", str(tmp_path)], catch_exceptions=False)
