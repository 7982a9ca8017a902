from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from milsurv import __version__
from milsurv.errors import PluginError
from milsurv.plugin.kinds import KINDS
from milsurv.plugin.registry import Registry, get_registry
from tests.conftest import COLOUR_BACKBONE

REGISTER = """
from milsurv import hookimpl

@hookimpl
def milsurv_register_{kind}(register):
    register("{name}", "{target}", summary="made for a test")
"""


def _plugin(folder: Path, stem: str, text: str) -> Path:
    path = folder / f"{stem}.py"
    path.write_text(text)
    return path


def test_every_kind_has_built_ins_that_verify() -> None:
    verified = [info for info in Registry().verified() if info.distribution == "milsurv"]
    assert {info.kind for info in verified} == set(KINDS) - {"command", "metric"}
    assert [info for info in verified if info.status != "ok"] == []


def test_built_ins_have_a_summary_of_one_line_and_a_docstring() -> None:
    registry = Registry()
    for info in registry.plugins:
        assert info.summary
        assert "\n" not in info.summary
        assert registry.load(info.kind, info.name).__doc__, info


def test_threads_that_ask_at_once_get_the_same_registry(tmp_path: Path) -> None:
    """The file takes its time to import: the second thread finds the module half imported."""
    slow = "import time\ntime.sleep(0.2)\n"
    text = slow + REGISTER.format(kind="losses", name="mine", target="slow_plugin:Mine")
    files = (_plugin(tmp_path, "slow_plugin", text),)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(get_registry, [files] * 2)
    assert first is second
    assert first.find("loss", "mine").status == "ok"


def test_a_local_file_registers_and_its_origin_is_that_of_what_was_imported(tmp_path: Path) -> None:
    copy = tmp_path / "my_backbone.py"
    copy.write_text(COLOUR_BACKBONE.read_text())
    registry = Registry([copy])
    assert registry.load("backbone", "colour").dim == 6
    before = registry.origin("backbone", "colour")
    copy.write_text(COLOUR_BACKBONE.read_text() + "\n# changed\n")
    registry.require_unchanged()
    copy.write_text(COLOUR_BACKBONE.read_text().replace("colour", "colour ") + "\nCHANGED = True\n")
    assert registry.origin("backbone", "colour") == before, "Python has the old code, too"
    with pytest.raises(PluginError, match=r"'colour' of .*my_backbone\.py has changed .* restart Python"):
        registry.require_unchanged()
    with pytest.raises(PluginError, match=r"changed during the run; run the command again"):
        registry.require_origins({("backbone", "colour"): "another"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise SystemExit('gone')", "SystemExit: gone"),
        (
            REGISTER.format(kind="agregators", name="x", target="a:B"),
            "there is no hook 'milsurv_register_agregators' (did you mean 'milsurv_register_aggregators'?)",
        ),
        (
            REGISTER.format(kind="losses", name="x", target="a:B").replace("@hookimpl", ""),
            "the function 'milsurv_register_losses' is not marked with @milsurv.hookimpl",
        ),
        (
            "milsurv_api = 2",
            f"built for plugin API 2, but milsurv {__version__} has plugin API 1; install compatible versions",
        ),
        (
            REGISTER.format(kind="losses", name="x", target="no_colon"),
            "target must be 'package.module:Class'",
        ),
    ],
)
def test_a_broken_plugin_is_kept_with_its_reason_and_stops_nothing(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = _plugin(tmp_path, f"broken_{tmp_path.name}", text)
    registry = Registry([path])
    (broken,) = [info for info in registry.plugins if info.status == "broken"]
    assert broken.distribution == str(path)
    assert reason in str(broken.reason)
    assert registry.find("loss", "nll").status == "ok"


def test_an_unknown_name_tells_the_nearest_and_what_failed_to_load(tmp_path: Path) -> None:
    registry = Registry([_plugin(tmp_path, "failing", "import not_there_at_all")])
    with pytest.raises(
        PluginError, match=r"unknown aggregator 'abmill' \(did you mean 'abmil'\?\).*failing.py failed"
    ):
        registry.find("aggregator", "abmill")


def test_a_taken_name_is_an_error_that_names_both(tmp_path: Path) -> None:
    path = _plugin(tmp_path, "usurper", REGISTER.format(kind="losses", name="nll", target="usurper:NLL"))
    registry = Registry([path])
    assert [info.status for info in registry.plugins if info.name == "nll"] == ["ok", "broken"]
    with pytest.raises(PluginError, match=rf"registered by milsurv .* and {path}"):
        registry.find("loss", "nll")
    assert registry.find("loss", "cox").status == "ok"


def test_a_class_that_cannot_be_imported_or_keeps_no_contract_is_broken_when_verified(tmp_path: Path) -> None:
    text = (
        REGISTER.format(kind="losses", name="absent", target="not_there:Loss")
        + REGISTER.format(kind="readers", name="alien", target="alien:Alien")
        + "class Alien: pass\n"
    )
    registry = Registry([_plugin(tmp_path, "alien", text)])
    reasons = {info.name: info.reason for info in registry.verified() if info.status == "broken"}
    assert "No module named 'not_there'" in str(reasons["absent"])
    assert reasons["alien"] == "alien:Alien does not derive from Reader"


def test_a_local_file_does_not_hide_an_installed_module(tmp_path: Path) -> None:
    registry = Registry([_plugin(tmp_path, "sqlite3", "")])
    (broken,) = [info for info in registry.plugins if info.status == "broken"]
    assert "rename the file" in str(broken.reason)


def test_a_file_in_a_folder_of_the_path_is_itself_but_hides_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, and under ``python -m milsurv``, where the current folder is on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    text = REGISTER.format(kind="losses", name="found", target="on_the_path:Mine")
    mine = _plugin(tmp_path, "on_the_path", text + "class Mine: pass\n")
    (tmp_path / "link").symlink_to(tmp_path)
    registry = Registry([tmp_path / "link" / mine.name])
    assert registry.load("loss", "found").__name__ == "Mine"
    for name in ("wave", "pluggy", "wat.dot"):  # of Python, of an installed package, of no module
        (broken,) = Registry([_plugin(tmp_path, name, "")]).plugins[-1:]
        assert broken.status == "broken"
        assert "rename the file" in str(broken.reason)


def test_two_files_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    files = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        text = REGISTER.format(kind="losses", name=folder, target="same_stem:Mine")
        files.append(_plugin(tmp_path / folder, "same_stem", text + f"class Mine: at = '{folder}'\n"))
    registry = Registry(files)
    assert registry.load("loss", "one").at == "one"
    (broken,) = [info for info in registry.plugins if info.status == "broken"]
    assert "there is another module named 'same_stem'" in str(broken.reason)
