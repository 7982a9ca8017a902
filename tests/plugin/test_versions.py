"""Versions of all starts of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from milsurv import __version__
from milsurv.plugin.registry import get_registry
from milsurv.plugin.versions import record_versions
from milsurv.storage.checksums import write_checked
from milsurv.storage.run_files import ENVIRONMENT, PLUGINS


def _record(folder: Path, *earlier_runs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    record_versions(folder, get_registry(), [("aggregator", "abmil"), ("loss", "cox")], earlier_runs)
    environment, plugins = (json.loads((folder / name).read_text()) for name in (ENVIRONMENT, PLUGINS))
    return environment, {row["kind"]: row for row in plugins}


def _pretend(folder: Path, version: str) -> None:
    """As if the last start had been under other versions."""
    environment = json.loads((folder / ENVIRONMENT).read_text())
    packages = {**environment["packages"], "torch": version}
    write_checked(folder / ENVIRONMENT, json.dumps({**environment, "milsurv": version, "packages": packages}))
    plugins = json.loads((folder / PLUGINS).read_text())
    write_checked(folder / PLUGINS, json.dumps([{**row, "version": version} for row in plugins]))


def test_a_start_under_other_versions_keeps_the_earlier_ones(tmp_path: Path) -> None:
    first, plugins = _record(tmp_path)
    assert first["milsurv"] == __version__
    assert first["earlier"] == plugins["loss"]["earlier"] == []
    _pretend(tmp_path, "0.0.1")
    _record(tmp_path)
    _pretend(tmp_path, "0.0.2")
    for _ in range(2):
        last, plugins = _record(tmp_path)
        assert last["milsurv"] == __version__
        assert [environment["milsurv"] for environment in last["earlier"]] == ["0.0.1", "0.0.2"]
        assert [environment["packages"]["torch"] for environment in last["earlier"]] == ["0.0.1", "0.0.2"]
        assert plugins["loss"]["version"] == __version__
        assert plugins["loss"]["earlier"] == ["0.0.1", "0.0.2"]


def test_what_trained_models_that_were_taken_over_is_kept(tmp_path: Path) -> None:
    giver, taker = tmp_path / "giver", tmp_path / "taker"
    giver.mkdir()
    taker.mkdir()
    _record(giver)
    _pretend(giver, "0.0.1")
    told, plugins = _record(taker, giver)
    assert [environment["milsurv"] for environment in told["earlier"]] == ["0.0.1"]
    assert plugins["aggregator"]["earlier"] == ["0.0.1"]
