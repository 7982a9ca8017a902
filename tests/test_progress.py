from __future__ import annotations

import time

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
