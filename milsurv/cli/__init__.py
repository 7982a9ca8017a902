"""The command line: thin commands that parse, call and print. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from milsurv._version import __version__
from milsurv.cli.configs import app as configs_app
from milsurv.cli.features import app as features_app
from milsurv.cli.finished import app as finished_app
from milsurv.cli.help import new_app
from milsurv.cli.options import (
    ConfigArgument,
    DeviceOption,
    MppOption,
    PluginOption,
    SetOption,
    WorkspaceOption,
    join_overrides,
    require_mpp,
)
from milsurv.errors import MilsurvError, PluginError, nearest
from milsurv.interrupts import Interrupted, end_by_interrupts, raise_interrupts
from milsurv.progress import PlainConsole, RunProgress, accept_any_text, discard_output, silence_libraries

if TYPE_CHECKING:
    from milsurv.plugin.registry import PluginInfo, Registry

app = new_app(
    name="milsurv",
    help="Survival models from whole-slide images: from raw slides to a report, in one command.",
    epilog="Try it without any data: milsurv run demo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(features_app, name="features")
app.add_typer(configs_app, name="configs")

PluginKind = Literal["aggregator", "backbone", "loss"]
"""What ``new-plugin`` writes packages for."""
BACKBONE_FACTS = ("dim", "licence", "gated")
"""What ``list-plugins --kind backbone`` tells of each besides."""
FOLDED = {"licence", "what it is", "from", "status"}
"""Columns of ``list-plugins`` that may be folded; the status only where it gives a reason."""
SHOWN_AS = {None: "", True: "yes", False: "no"}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"milsurv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    fold: Annotated[int | None, typer.Option(metavar="K", help="Train this fold alone.")] = None,
    plugin: PluginOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors alone.")] = False,
) -> None:
    """Do a whole run: slides, features, cross-validated training, numbers, report.

    Whatever is finished already is kept: the same command goes on where it was stopped.
    """
    from milsurv.cli.run import run_command

    raise typer.Exit(
        run_command(config, join_overrides(overrides, workspace, device), plugin or [], fold, quiet)
    )


@app.command()
def check(
    config: ConfigArgument,
    overrides: SetOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    fold: Annotated[int | None, typer.Option(metavar="K", help="Check for a run of this fold alone.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Find what is wrong with a run before it starts: settings, plugins, table, slides, weights, folds, disk space.

    Every slide or feature file is opened, a few are read, and a few cases go through one step of training.
    """
    from milsurv.cli.check import check_command

    raise typer.Exit(check_command(config, join_overrides(overrides, workspace, device), plugin or [], fold))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="SLIDE|FOLDER", help="A slide, or a folder of slides.")],
    config: Annotated[
        str,
        typer.Option(
            "--config", "-c", metavar="CONFIG", help="Whose reader, tissue, tiling and backbone to use."
        ),
    ] = "demo",
    overrides: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where to write a picture (PNG) and the tissue's outline (GeoJSON) of each slide "
            "(default: here for a slide, nowhere for a folder).",
        ),
    ] = None,
    mpp: MppOption = None,
    plugin: PluginOption = None,
) -> None:
    """Show what a run would make of a slide: resolution, reader, tissue, patches, time and disk.

    Of a folder a table, in which slides that would be left out are red. Exit status 1 when there is one.
    """
    from milsurv.cli.inspect import inspect_command

    raise typer.Exit(inspect_command(path, config, overrides or [], plugin or [], output, require_mpp(mpp)))


app.add_typer(finished_app)


@app.command("list-plugins")
def list_plugins(
    kind: Annotated[
        str | None, typer.Option(help="reader, tissue, backbone, aggregator, loss or tracker.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Import and check every class.")] = False,
    plugin: PluginOption = None,
) -> None:
    """List the plugins that are built in, installed, or given as files."""
    from milsurv.plugin.kinds import KINDS
    from milsurv.plugin.registry import TRACKER, get_registry

    kinds = (*KINDS, TRACKER)
    if kind is not None and kind not in kinds:
        raise MilsurvError(
            f"--kind {kind}: unknown kind{nearest(kind, kinds)}; there are: {', '.join(kinds)}"
        )
    registry = get_registry(tuple(dict.fromkeys(file.absolute() for file in plugin or [])))
    found = registry.verified() if verify else registry.plugins
    keys = ("kind", "name", "summary", "distribution", "version", "status", "reason")
    shown = [info for info in found if kind in (None, info.kind)]
    rows = [{key: getattr(info, key) for key in keys} for info in shown]
    if kind == "backbone":
        rows = [{**row, **_of_backbone(registry, info)} for row, info in zip(rows, shown, strict=True)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print_plugins(rows)


def _of_backbone(registry: Registry, info: PluginInfo) -> dict[str, Any]:
    """What a backbone's class says of itself; nothing when it is broken, or says it of an instance alone."""
    if info.status != "ok":
        return {}
    try:
        plugin_class = registry.load(info.kind, info.name)
    except PluginError:
        return {}
    return {key: getattr(plugin_class, key, None) for key in BACKBONE_FACTS}


def _print_plugins(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    more = [key for key in BACKBONE_FACTS if any(key in row for row in rows)]
    folded = FOLDED if any(row["reason"] for row in rows) else FOLDED - {"status"}
    for heading in ("kind", "name", *more, "what it is", "from", "status"):
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
    kind: Annotated[PluginKind, typer.Argument(metavar="KIND", help="aggregator, backbone or loss.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name in a configuration, such as mymil.")],
    parent: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="Where the package's folder is made.")
    ] = Path(),
) -> None:
    """Write an installable package for a plugin of your own, with a test of milsurv's contract."""
    from milsurv.cli.new_plugin import new_plugin_command

    raise typer.Exit(new_plugin_command(kind, name, parent))


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt, .pth or .safetensors file.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="CrossFusion, CrossFusionConcat, CrossFusionSingle, AMIL, DSMIL or TransMIL.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The model file to write.")],
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads of a CrossFusion model, 4 unless given: no tensor tells."),
    ] = None,
) -> None:
    """Turn a checkpoint that the CrossFusion authors released into a model file of milsurv."""
    from milsurv.cli.import_checkpoint import import_checkpoint_command

    raise typer.Exit(import_checkpoint_command(file, model, heads, output))


def main() -> None:
    """Run the command line. What the user can mend prints as one line each and exits with 2.

    Ctrl-C exits with 130, SIGTERM with 143, SIGHUP with 129, as a shell reports them.
    """
    silence_libraries()
    accept_any_text()
    raise_interrupts()
    try:
        app()
    except (MilsurvError, OSError) as error:
        problem, status = _told(error), 2
    except Interrupted as stop:
        end_by_interrupts()
        problem, status = None, stop.exit_status
    else:
        return
    try:
        if problem is None:
            RunProgress().warn("stopped; the same command goes on where it stopped")
        for line in (problem or "").splitlines():
            RunProgress().error(line)
    except OSError:  # the terminal is gone, or the disk of a log full
        discard_output()
    finally:
        sys.exit(status)


def _told(error: MilsurvError | OSError) -> str:
    """What is printed of an error; it is raised again when it is a bug."""
    if isinstance(error, MilsurvError):
        return str(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; see that it can be read or written there"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    discard_output()
    return f"{error.strerror}: see that there is room where the output goes"
