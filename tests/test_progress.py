from __future__ import annotations

import io
import time
from datetime import datetime
from pathlib import Path

import pytest
from rich.table import Table

from milsurv.progress import PlainConsole, RunProgress


def test_plain_lines_tell_the_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 1000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    with RunProgress().stage("extracting features", 4, "slides") as stage:
        for _ in range(4):
            stage.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("extracting features: 1/4 slides, ")
    assert " slides/s, " in lines[0]
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("extracting features: 4 slides in ")


def test_nothing_to_do_is_said_in_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress().stage("drawing slides", 0, "slides"):
        pass
    assert capsys.readouterr().out == "drawing slides: already finished\n"


def test_quiet_keeps_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = RunProgress(quiet=True)
    quiet.say("a result")
    with quiet.stage("training folds", 1, "cases") as stage:
        stage.advance()
    quiet.warn("slide [a] is excluded")
    quiet.error("mend this")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "warning: slide [a] is excluded\nerror: mend this\n"


def test_the_log_has_every_line_with_its_time_quiet_or_not(tmp_path: Path) -> None:
    quiet = RunProgress(quiet=True)
    quiet.log_to(tmp_path / "logs" / "run.log")
    quiet.say("the plan")
    with quiet.stage("extracting features", 2, "slides") as stage:
        stage.advance(2, "3 excluded")
    quiet.warn("one\ntwo")
    lines = (tmp_path / "logs" / "run.log").read_text().splitlines()
    times, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert all(datetime.fromisoformat(time).tzinfo is not None for time in times)
    assert texts[0] == "the plan"
    assert texts[1].startswith("extracting features: 2 slides in ")
    assert texts[2:] == ("warning: one", "two")


ODD = [
    "[bold]P1[/bold]",
    "[/x]",
    "[red",
    ":smile:",
    "P\x1b[31m1",
    "null\0",
    "caf\udce9",
    "🧬" * 300,
    "x" * 5000,
]


@pytest.mark.parametrize("odd", ODD)
def test_ids_are_printed_as_they_are_and_control_characters_as_escapes(
    odd: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = odd.encode("unicode_escape").decode() if not odd.isprintable() else odd
    progress = RunProgress()
    progress.log_to(tmp_path / "run.log")
    progress.say(odd)
    with progress.stage(odd, 1, odd) as stage:
        stage.advance(1, odd)
        stage.wait_for(odd)
    progress.warn(odd)
    progress.error(odd)
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [shown, f"{shown}: waiting for {shown}, which another run is working on"]
    assert err.splitlines() == [f"warning: {shown}", f"error: {shown}"]
    assert f"warning: {shown}\n" in (tmp_path / "run.log").read_text()


def test_a_table_prints_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[b]heading", box=None)
    for odd in ODD[:7]:
        table.add_row(odd)
    PlainConsole().print(table)
    printed = capsys.readouterr().out
    assert "[bold]P1[/bold]" in printed
    assert ":smile:" in printed
    assert "P\\x1b[31m1" in printed
    assert "caf\\udce9" in printed


@pytest.mark.parametrize("columns", [20, 40, 120])
def test_bars_take_any_title(columns: int) -> None:
    """On a terminal; the bars are drawn by rich itself."""
    progress = RunProgress()
    written = io.StringIO()
    progress.console = PlainConsole()
    progress.console.file, progress.console._force_terminal = written, True
    progress.console.width = columns
    with progress.stage("[/x] features", 2, "slides [/y]") as stage:
        stage.advance(1, "note [/z]")
    assert "[/x]" in written.getvalue()
