"""Each hook, implemented by a plugin file that has no other."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milsurv import hookimpl
from milsurv.aggregators.pooling import MeanPool
from milsurv.backbones.resnet import ResNet18
from milsurv.executors.local import LocalExecutor
from milsurv.features.importers.clam import Clam
from milsurv.losses.discrete import NLL
from milsurv.plugin.lifecycle import HookFailure, LifeCycle
from milsurv.plugin.registry import Registry
from milsurv.slides.reader import OpenSlideReader
from milsurv.slides.tissue import OtsuTissue

REGISTERING = """
from milsurv import hookimpl
from {module} import {name}

class Mine({name}):
    "A plugin's own."

@hookimpl
def {hook}(register):
    register("mine", f"{{__name__}}:Mine", summary="made for a test")
"""
COMMANDS = """
import typer
from milsurv import hookimpl

TEXT = "no command"
app = typer.Typer()

@app.command()
def hello():
    "Say hello."

@hookimpl
def milsurv_register_commands(register):
    register("hello", "mine_command:app", summary="say hello")
    register("text", "mine_command:TEXT", summary="not a command")
"""
TELLING = """
from milsurv import hookimpl

told = []

@hookimpl
def {hook}({arguments}):
    told.append(({arguments},))
"""


def _registered(folder: Path, hook: str, kind: str, base: type[Any]) -> type[Any]:
    file = folder / f"mine_{kind}.py"
    file.write_text(REGISTERING.format(hook=hook, module=base.__module__, name=base.__name__))
    registry = Registry([file])
    (verified,) = [info for info in registry.verified() if info.name == "mine"]
    assert (verified.kind, verified.status, verified.summary) == (kind, "ok", "made for a test")
    found: type[Any] = registry.load(kind, "mine")
    assert issubclass(found, base)
    return found


def test_milsurv_register_executors(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_executors", "executor", LocalExecutor)


def test_milsurv_register_readers(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_readers", "reader", OpenSlideReader)


def test_milsurv_register_tissue(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_tissue", "tissue", OtsuTissue)


def test_milsurv_register_backbones(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_backbones", "backbone", ResNet18)


def test_milsurv_register_feature_layouts(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_feature_layouts", "feature_layout", Clam)


def test_milsurv_register_aggregators(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_aggregators", "aggregator", MeanPool)


def test_milsurv_register_losses(tmp_path: Path) -> None:
    _registered(tmp_path, "milsurv_register_losses", "loss", NLL)


def test_milsurv_register_metrics() -> None:
    registry = Registry([Path(__file__).parents[1] / "data" / "plugins" / "more_metrics.py"])
    assert registry.names("metric") == ["died", "failing", "somers_d"]
    assert registry.load("metric", "somers_d").title == "Somers' D <of the test>"


def test_milsurv_register_commands(tmp_path: Path) -> None:
    file = tmp_path / "mine_command.py"
    file.write_text(COMMANDS)
    registry = Registry([file])
    verified = {info.name: info for info in registry.verified() if info.kind == "command"}
    assert {name: info.status for name, info in verified.items()} == {"hello": "ok", "text": "broken"}
    assert verified["text"].reason == "mine_command:TEXT is not callable"
    assert callable(registry.load("command", "hello"))


def _told(folder: Path, hook: str, values: dict[str, Any]) -> None:
    """The hook gets what it was told, and may name some of the arguments alone."""
    for number, names in enumerate((list(values), list(values)[:1])):
        file = folder / f"tracker_{hook}_{number}.py"
        file.write_text(TELLING.format(hook=hook, arguments=", ".join(names)))
        registry = Registry([file])
        failures: list[HookFailure] = []
        LifeCycle(registry.manager, failures.append).call(hook, **values)
        module: Any = registry.manager.get_plugin(str(file))
        assert module.told == [tuple(values[name] for name in names)]
        assert failures == []


def test_milsurv_run_started(tmp_path: Path) -> None:
    _told(tmp_path, "milsurv_run_started", {"config": {"name": "demo"}, "folder": tmp_path})


def test_milsurv_epoch_finished(tmp_path: Path) -> None:
    values = {"seed": 1, "fold": 0, "epoch": 3, "values": {"train_loss": 0.5}, "folder": tmp_path}
    _told(tmp_path, "milsurv_epoch_finished", values)


def test_milsurv_fold_finished(tmp_path: Path) -> None:
    _told(tmp_path, "milsurv_fold_finished", {"seed": 1, "fold": 0, "folder": tmp_path})


def test_milsurv_run_finished(tmp_path: Path) -> None:
    _told(tmp_path, "milsurv_run_finished", {"folder": tmp_path, "metrics": {"cohort": {}}})


def test_a_plugin_that_raises_is_switched_off_and_the_others_are_told(tmp_path: Path) -> None:
    failing = tmp_path / "failing_hook.py"
    failing.write_text(
        "from milsurv import hookimpl\n\n@hookimpl\ndef milsurv_fold_finished(fold):\n    raise SystemExit(fold)\n"
    )
    listening = tmp_path / "listening_hook.py"
    listening.write_text(TELLING.format(hook="milsurv_fold_finished", arguments="fold"))
    registry = Registry([listening, failing])
    failures: list[HookFailure] = []
    life_cycle = LifeCycle(registry.manager, failures.append)
    for fold in (0, 1):
        life_cycle.call("milsurv_fold_finished", seed=1, fold=fold, folder=tmp_path)
    assert [(f.plugin, f.hook, f.error) for f in failures] == [
        (str(failing), "milsurv_fold_finished", "SystemExit: 0")
    ]
    module: Any = registry.manager.get_plugin(str(listening))
    assert module.told == [(0,), (1,)]


def test_plugins_are_told_in_the_order_that_pluggy_keeps(tmp_path: Path) -> None:
    order: list[str] = []
    registry = Registry()
    for name in ("last", "middle", "first"):
        module = types.ModuleType(name)
        marked = hookimpl(tryfirst=name == "first", trylast=name == "last")
        module.milsurv_fold_finished = marked(_appending(order, name))  # type: ignore[attr-defined]
        registry.manager.register(module, name)
    LifeCycle(registry.manager, lambda _failure: None).call(
        "milsurv_fold_finished", seed=1, fold=0, folder=tmp_path
    )
    assert order == ["first", "middle", "last"]


def _appending(order: list[str], name: str) -> Callable[[int], None]:
    def told(fold: int) -> None:  # noqa: ARG001
        order.append(name)

    return told
