"""The command line: thin commands that parse, call and print. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from milsurv._version import __version__
from milsurv.cli.common import (
    ConfigArgument,
    DeviceOption,
    PluginOption,
    SetOption,
    WorkspaceOption,
    join_overrides,
    new_app,
)
from milsurv.cli.config import app as config_app
from milsurv.cli.features import app as features_app
from milsurv.cli.finished import app as finished_app
from milsurv.cli.inspect import app as inspect_app
from milsurv.cli.plugins import PluginGroup
from milsurv.cli.plugins import app as plugins_app
from milsurv.errors import MilsurvError
from milsurv.interrupts import Interrupted, end_by_interrupts, raise_interrupts
from milsurv.progress import RunProgress, accept_any_text, discard_output, silence_libraries

app = new_app(
    cls=PluginGroup,
    name="milsurv",
    help="Survival models from whole-slide images: from raw slides to a report, in one command.",
    epilog="Try it without any data: milsurv run demo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


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


app.add_typer(inspect_app)
app.add_typer(finished_app)
app.add_typer(plugins_app)


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


app.add_typer(features_app, name="features")
app.add_typer(config_app, name="config")
app.add_typer(config_app, name="configs", hidden=True)  # former name


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
