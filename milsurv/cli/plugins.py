"""``milsurv list-plugins``, ``milsurv new-plugin``, and the commands that plugins register."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from milsurv.cli.common import Group, PluginOption, new_app, new_table
from milsurv.errors import MilsurvError, PluginError, nearest
from milsurv.progress import PlainConsole, RunProgress

if TYPE_CHECKING:
    from milsurv.plugin.registry import PluginInfo, Registry

app = new_app()
COMMAND = "command"
BACKBONE_COLUMNS = ("dim", "licence", "gated")
"""Additional columns of ``list-plugins --kind backbone``."""
FOLDED = {"licence", "summary", "from", "status"}
"""Columns that may be wrapped; the status only where it has a reason."""
SHOWN_AS = {None: "", True: "yes", False: "no"}


class PluginGroup(Group):
    """The built-in commands, followed by those of installed plugins, which are imported when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        builtin = super().list_commands(ctx)
        return [*builtin, *(info.name for info in _usable_commands(builtin))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if builtin := super().get_command(ctx, cmd_name):
            return builtin
        for info in _usable_commands(self.commands):
            if info.name == cmd_name:
                return _command(info)
        return None


def _usable_commands(builtin: Container[str]) -> list[PluginInfo]:
    from milsurv.plugin.registry import get_registry

    usable = _refuse_builtin_names(get_registry().plugins, builtin)
    return [info for info in usable if info.kind == COMMAND and info.status == "ok"]


def _refuse_builtin_names(plugins: list[PluginInfo], builtin: Container[str]) -> list[PluginInfo]:
    """The plugins; commands that would replace a built-in one are broken."""
    return [
        replace(info, status="broken", reason=f"milsurv has a built-in command '{info.name}'")
        if info.kind == COMMAND and info.name in builtin
        else info
        for info in plugins
    ]


def _command(info: PluginInfo) -> Any:
    """A command that passes its arguments, ``--help`` too, on to the plugin's typer app or click command."""
    app = new_app()

    @app.command(
        info.name,
        short_help=info.summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def call(ctx: typer.Context) -> None:
        from milsurv.plugin.registry import get_registry

        get_registry().load(info.kind, info.name)(args=ctx.args, prog_name=ctx.command_path)

    return typer.main.get_command(app)


@app.command("list-plugins")
def list_plugins(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Option(help="Only this kind, such as reader, tissue, backbone, aggregator or loss.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Import and check every plugin.")] = False,
    plugin: PluginOption = None,
) -> None:
    """List built-in and installed plugins, and those in the given files."""
    from milsurv.plugin.kinds import KINDS
    from milsurv.plugin.registry import TRACKER, get_registry

    kinds = (*KINDS, TRACKER)
    if kind is not None and kind not in kinds:
        raise MilsurvError(
            f"--kind {kind}: unknown kind{nearest(kind, kinds)}; allowed are: {', '.join(kinds)}"
        )
    registry = get_registry(plugin or ())
    group: Any = ctx.find_root().command
    plugins = _refuse_builtin_names(registry.verified() if verify else registry.plugins, group.commands)
    keys = ("kind", "name", "summary", "distribution", "version", "status", "reason")
    shown = [info for info in plugins if kind in (None, info.kind)]
    rows = [{key: getattr(info, key) for key in keys} for info in shown]
    if kind == "backbone":
        rows = [{**row, **_backbone_facts(registry, info)} for row, info in zip(rows, shown, strict=True)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print(rows)


def _backbone_facts(registry: Registry, info: PluginInfo) -> dict[str, Any]:
    """Class attributes of a backbone; empty when it is broken, None for those that depend on its settings."""
    if info.status != "ok":
        return {}
    try:
        plugin_class = registry.load(info.kind, info.name)
    except PluginError:
        return {}
    return {key: getattr(plugin_class, key, None) for key in BACKBONE_COLUMNS}


def _print(rows: list[dict[str, Any]]) -> None:
    table = new_table(padding=(0, 1, 0, 0))
    more = [key for key in BACKBONE_COLUMNS if any(key in row for row in rows)]
    folded = FOLDED if any(row["reason"] for row in rows) else FOLDED - {"status"}
    for heading in ("kind", "name", *more, "summary", "from", "status"):
        table.add_column(heading, no_wrap=heading not in folded, overflow="fold")
    for row in rows:
        status = row["status"] if row["reason"] is None else f"{row['status']}: {row['reason']}"
        source = f"{row['distribution']} {row['version']}"
        style = None if row["status"] == "ok" else "red"
        facts = (SHOWN_AS.get(row.get(key), row.get(key)) for key in more)
        cells = (row["kind"], row["name"], *facts, row["summary"], source, status)
        table.add_row(*map(str, cells), style=style)
    PlainConsole().print(table)


@app.command("new-plugin")
def new_plugin(
    kind: Annotated[
        Literal["aggregator", "backbone", "loss"],
        typer.Argument(metavar="KIND", help="aggregator, backbone or loss."),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in a configuration, such as mymil.")],
    parent: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="Folder in which the package folder is created.")
    ] = Path(),
) -> None:
    """Create an installable package for a new plugin, with tests of the plugin contract."""
    from milsurv.plugin.registry import get_registry
    from milsurv.scaffold import new_plugin

    folder = new_plugin(kind, name, parent, get_registry())
    progress = RunProgress()
    progress.say(f"Created {folder}, a package with a working {kind} '{name}'. Next steps:")
    progress.say(f"  cd {folder}")
    progress.say("  pip install -e '.[dev]'")
    progress.say("  pytest                      test the plugin contract")
    progress.say("  milsurv list-plugins")
    progress.say(f"  milsurv run demo --set {kind}.name={name}")
    progress.say(f"Then replace the code in src/milsurv_{name}/{kind}.py with your own.")
