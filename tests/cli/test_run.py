"""The real command, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.command import run_milsurv, start_milsurv
from tests.conftest import DATA, WriteConfig

CMU = DATA / "slides" / "CMU-1-Small-Region.svs"


def _copy_of_cmu(path: Path) -> None:
    """The slide with its file's name behind it, which no reader minds: no two files are the same."""
    path.write_bytes(CMU.read_bytes() + path.stem.encode())


def test_a_run_prints_a_plan_numbers_and_the_report(write_config: WriteConfig, tmp_path: Path) -> None:
    process = start_milsurv("run", write_config(), "--set", "executor.workers=2", cwd=tmp_path)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "run 'small' on cpu, 2 worker(s)" in stdout
    assert "extracting features: 17 slides" in stdout
    assert "15 cases, 10 events, 17 slides used, 0 excluded" in stdout
    assert "Harrell's C" in stdout
    report = Path(stdout.rpartition("Report: ")[2].strip())
    assert report.is_file()
    assert "Traceback" not in stderr
    assert "Warning" not in stderr
    workspace = tmp_path / "workspace"
    log = (workspace / "logs" / "small.log").read_text()
    assert "extracting features: 17 slides in " in log
    (file,) = workspace.glob("features/*/events.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({event["slide"] for event in events}) == 17
    assert all(event["bytes"] > 1000 and event["reason"] is None for event in events)
    quiet = run_milsurv("run", write_config(), "--quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout) == (0, "")
    (warning,) = quiet.stderr.splitlines()
    assert warning.startswith("warning: fewer than 10 events among the test cases of 3 of 3 folds")


def test_real_slides_real_backbone(write_config: WriteConfig, tmp_path: Path) -> None:
    """The freely distributable Aperio slide, as eight cases, with the backbone that is installed along."""
    slides = tmp_path / "slides"
    slides.mkdir()
    rows = ["case_id,slide_id,time,event"]
    for number in range(8):
        _copy_of_cmu(slides / f"case{number}.svs")
        rows.append(f"case{number},case{number}.svs,{10 + number},{int(number != 3)}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    config = write_config(
        cohort={"table": str(tmp_path / "table.csv"), "slides": str(slides)},
        plugins=None,
        tiling=None,
        backbone={"name": "efficientnet_lite0", "input_px": 64},
        splits={"folds": 2, "validation": 0.3},
        training={"epochs": 1},
    )
    done = run_milsurv("run", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "workspace" / "runs" / "small").iterdir()
    slides_used = pd.read_csv(folder / "slides.csv")
    assert (slides_used["status"] == "used").all()
    assert slides_used["mpp"].tolist() == pytest.approx([0.499] * 8)
    assert (slides_used["patches_20x"] > 20).all()
    assert (folder / "report.html").stat().st_size > 100_000


BAD_TABLES = {
    "empty event": ("a,a1,3,\n", "row 2", "event"),
    "empty time": ("a,a1,,1\n", "row 2", "time"),
    "NaN time": ("a,a1,NaN,1\n", "row 2", "time"),
    "negative time": ("a,a1,-3,1\n", "row 2", "time"),
    "zero time": ("a,a1,0,1\n", "row 2", "time"),
    "duplicate slide": ("a,a1,3,1\na,a1,3,1\n", "row 3", "a1"),
    "rows that disagree": ("a,a1,3,1\na,a2,4,1\n", "case a", "time"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_each_bad_row_is_refused_by_its_number_or_dropped_and_counted(
    kind: str, write_config: WriteConfig, tmp_path: Path
) -> None:
    """In this process: ``check`` is the same code, and eight interpreters are slow."""
    from milsurv.config.loading import load_config
    from milsurv.runs.checks import check_run

    rows, place, what = BAD_TABLES[kind]
    good = "".join(f"g{n},g{n}1,{n + 5},{int(n % 4 > 0)}\n" for n in range(8))
    (tmp_path / "table.csv").write_text("case_id,slide_id,time,event\n" + rows + good)
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ["a1", "a2", *(f"g{n}1" for n in range(8))]:
        _copy_of_cmu(slides / f"{name}.svs")
    cohort = {"table": str(tmp_path / "table.csv"), "slides": str(slides)}
    config, registry = load_config(str(write_config(cohort=cohort)))
    (problem,) = check_run(config, registry).problems
    assert place in problem
    assert what in problem
    assert "on_invalid: drop" in problem
    config, registry = load_config(str(write_config(cohort={**cohort, "on_invalid": "drop"})))
    findings = check_run(config, registry)
    assert findings.problems == []
    assert any(place in warning for warning in findings.warnings)


def test_wrong_settings_exit_with_2_and_a_line_each(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(trainning={"epochs": 3}, aggregator={"name": "crosfusion"})
    done = run_milsurv("run", config, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"error: {config}:") for line in lines)
    assert "did you mean 'crossfusion'?" in done.stderr
    assert "did you mean 'training'?" in done.stderr


def test_a_workspace_that_cannot_be_written_is_one_line(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("check", "run"):
        done = run_milsurv(command, write_config(), "--workspace", tmp_path / "file" / "inside", cwd=tmp_path)
        assert done.returncode == 2
        assert "Not a directory" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_column_lists_what_there_is(
    write_config: WriteConfig, tmp_path: Path, small_cohort: Path
) -> None:
    cohort = {"table": str(small_cohort / "follow_up.csv"), "slides": str(small_cohort / "slides")}
    config = write_config(cohort={**cohort, "columns": {"time": "survival_time"}})
    done = run_milsurv("check", config, cwd=tmp_path)
    assert done.returncode == 2
    assert "survival_time" in done.stderr
    assert "case_id, slide_id, time, event" in done.stderr


def test_a_case_in_two_folds_is_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text(
        "case_id,fold\n" + "".join(f"P{n:02d},{n % 3}\n" for n in range(15)) + "P04,2\n"
    )
    done = run_milsurv("check", write_config(splits={"files": str(tmp_path / "folds.csv")}), cwd=tmp_path)
    assert done.returncode == 2
    assert "P04" in done.stderr
    assert "row 17" in done.stderr


def _cohort_with_a_bad_slide(small_cohort: Path, folder: Path) -> dict[str, str]:
    """The small cohort's section of the YAML, from a copy in which the slide P00-1 cannot be opened."""
    shutil.copytree(small_cohort, folder)
    (folder / "slides" / "P00-1.svs").write_text("no slide")
    return {"table": str(folder / "follow_up.csv"), "slides": str(folder / "slides")}


def test_check_tells_what_a_run_would_leave_out(
    write_config: WriteConfig, tmp_path: Path, small_cohort: Path
) -> None:
    sections = _cohort_with_a_bad_slide(small_cohort, tmp_path / "cohort")
    (tmp_path / "cohort" / "slides" / "P02-1.svs").unlink()
    done = run_milsurv("check", write_config(cohort=sections), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "15 cases, 10 events, 17 slides in the table" in done.stdout
    assert "15 slides open" in done.stdout
    assert "free in" in done.stdout
    assert "slide P00-1 will be excluded: cannot be opened" in done.stderr
    assert "slide P02-1 will be excluded: no file" in done.stderr


def test_too_many_slides_excluded_exit_with_1(
    write_config: WriteConfig, tmp_path: Path, small_cohort: Path
) -> None:
    sections = _cohort_with_a_bad_slide(small_cohort, tmp_path / "cohort")
    done = run_milsurv("run", write_config(cohort=sections, max_failed_slides=0), cwd=tmp_path)
    assert done.returncode == 1
    assert "more than max_failed_slides: 0" in done.stderr
    assert "Report: " in done.stdout
    assert (
        run_milsurv("run", write_config(cohort=sections, max_failed_slides=1), cwd=tmp_path).returncode == 0
    )


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("signal_number", "workers"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 1), (signal.SIGKILL, 2)],
)
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    write_config: WriteConfig, tmp_path: Path, signal_number: signal.Signals, workers: int
) -> None:
    overrides = ["--set", f"executor.workers={workers}", "--set", "training.epochs=8"]
    config = write_config()
    stopped = [sys.executable, "-m", "milsurv", "run", str(config), *overrides]
    process = subprocess.Popen(
        stopped,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    _wait_for(lambda: any((tmp_path / "workspace").rglob("state.safetensors")), process)
    if signal_number == signal.SIGKILL:
        process.send_signal(signal_number)
    else:
        os.killpg(process.pid, signal_number)  # as a terminal's Ctrl-C and a time limit reach the whole group
    _, errors = process.communicate(timeout=120)
    if signal_number != signal.SIGKILL:
        assert process.returncode == 128 + signal_number
        assert "run the same command again to resume" in errors
        assert "Traceback" not in errors
    assert not list((tmp_path / "workspace").rglob("report.html"))
    again = run_milsurv("run", config, *overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    elsewhere = tmp_path / "elsewhere"
    assert run_milsurv("run", config, *overrides, "--workspace", elsewhere, cwd=tmp_path).returncode == 0
    assert _trained(tmp_path / "workspace") == _trained(elsewhere)
    assert not list((tmp_path / "workspace").rglob("*.tmp")) or signal_number == signal.SIGKILL


def _hear_interrupts() -> None:
    """A process started in the background of a shell ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _trained(workspace: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "predictions.csv", "history.csv", "metrics.json")
    return {str(p.relative_to(workspace)): p.read_bytes() for n in names for p in workspace.rglob(n)}
