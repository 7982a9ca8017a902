from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milsurv.storage.atomic import atomic_path, fingerprint, json_text, write_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise TypeError


def test_what_failed_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(TypeError):
        _write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_no_final_name(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from milsurv.storage.atomic import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "file").exists()


def test_files_have_the_permissions_that_the_user_set(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_json_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"c_index": math.nan})
    assert json.loads(json_text({"c_index": None})) == {"c_index": None}


@given(content=st.dictionaries(st.text(), JSON, min_size=1, max_size=5))
def test_a_fingerprint_stands_for_the_content_and_not_for_its_order(content: dict[str, object]) -> None:
    shuffled = dict(reversed(content.items()))
    assert fingerprint(shuffled) == fingerprint(content)
    assert fingerprint({**content, "one more": 1}) != fingerprint(content)
    assert len(fingerprint(content)) == 12
