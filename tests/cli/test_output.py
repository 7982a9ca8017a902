"""Output that goes nowhere: a closed pipe, a full disk, an encoding without the letters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import start_milsurv


def test_a_reader_that_leaves_gets_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "milsurv", "list-plugins"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_output_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start_milsurv("list-plugins", "--json", cwd=tmp_path, stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == "error: No space left on device: free some space where the output is written\n"


def test_letters_that_the_encoding_lacks_are_escapes(tmp_path: Path) -> None:
    process = start_milsurv("run", "µ-[b]", cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("error: \\xb5-[b]: no such file")
