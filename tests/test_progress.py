from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest

from milsurv.progress import RunProgress


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
    assert capsys.readouterr().out == "drawing slides: nothing left to do\n"


def test_quiet_keeps_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = RunProgress(quiet=True)
    quiet.say("a result")
    with quiet.stage("training folds", 1, "cases") as stage:
        stage.advance()
    quiet.warn("slide [a] is left out")
    quiet.error("mend this")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "warning: slide [a] is left out\nerror: mend this\n"


def test_the_log_has_every_line_with_its_time_quiet_or_not(tmp_path: Path) -> None:
    quiet = RunProgress(quiet=True)
    quiet.log_to(tmp_path / "logs" / "run.log")
    quiet.say("the plan")
    with quiet.stage("extracting features", 2, "slides") as stage:
        stage.advance(2, "3 left out")
    quiet.warn("one\ntwo")
    lines = (tmp_path / "logs" / "run.log").read_text().splitlines()
    times, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert all(datetime.fromisoformat(time).tzinfo is not None for time in times)
    assert texts[0] == "the plan"
    assert texts[1].startswith("extracting features: 2 slides in ")
    assert texts[2:] == ("warning: one", "two")
