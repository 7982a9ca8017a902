from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.errors import MilsurvError
from tests.conftest import COLOUR_BACKBONE

KEYS = {"kind", "name", "summary", "distribution", "version", "status", "reason"}


def _listed(*arguments: str) -> list[dict[str, str]]:
    done = CliRunner().invoke(app, ["list-plugins", "--json", *arguments])
    assert done.exit_code == 0
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


def test_json_has_the_documented_keys() -> None:
    rows = _listed()
    assert all(set(row) == KEYS for row in rows)
    assert {"crossfusion", "abmil", "nll", "cox", "resnet50", "openslide"} <= {row["name"] for row in rows}


def test_kind_limits_the_list_and_a_wrong_one_is_refused() -> None:
    assert {row["kind"] for row in _listed("--kind", "loss")} == {"loss"}
    with pytest.raises(MilsurvError, match=r"--kind los: unknown kind \(did you mean 'loss'\?\)"):
        CliRunner().invoke(app, ["list-plugins", "--kind", "los"], catch_exceptions=False)


def test_backbones_tell_dimension_licence_and_gating() -> None:
    rows = {row["name"]: row for row in _listed("--kind", "backbone")}
    assert rows["resnet50"] | {"dim": 2048, "licence": "BSD-3-Clause", "gated": False} == rows["resnet50"]
    assert rows["ctranspath"] | {"dim": 768, "licence": "GPL-3.0", "gated": False} == rows["ctranspath"]
    printed = CliRunner().invoke(app, ["list-plugins", "--kind", "backbone"]).stdout
    assert "licence" in printed
    assert "1024" in printed


def test_no_column_is_squeezed_away_on_a_narrow_terminal() -> None:
    printed = CliRunner().invoke(app, ["list-plugins", "--kind", "backbone"], env={"COLUMNS": "80"}).stdout
    heading, first, *_ = printed.splitlines()
    assert heading.split() == [
        "kind",
        "name",
        "dim",
        "licence",
        "gated",
        "summary",
        "from",
        "status",
    ]
    assert first.split()[-1] == "ok"
    assert max(map(len, printed.splitlines())) <= 80


def test_broken_and_local_plugins_are_shown_with_their_reason(tmp_path: Path) -> None:
    broken = tmp_path / "no_good.py"
    broken.write_text("raise ValueError('not today')")
    rows = _listed("--plugin", str(broken), "--plugin", str(COLOUR_BACKBONE))
    by_source = {row["distribution"]: row for row in rows}
    assert by_source[str(broken)]["status"] == "broken"
    assert by_source[str(broken)]["reason"] == "ValueError: not today"
    assert by_source[str(COLOUR_BACKBONE)]["name"] == "colour"
    wide = CliRunner(env={"COLUMNS": "300"})
    assert (
        "broken: ValueError: not today" in wide.invoke(app, ["list-plugins", "--plugin", str(broken)]).stdout
    )


def test_verify_imports_every_built_in() -> None:
    rows = _listed("--verify")
    assert [row for row in rows if row["distribution"] == "milsurv" and row["status"] != "ok"] == []
