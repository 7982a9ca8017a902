"""The command line: thin commands that parse, call and print. torch is imported only by commands that need it."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from milsurv._version import __version__
from milsurv.cli.common import new_app
from milsurv.cli.config import app as config_app
from milsurv.cli.features import app as features_app
from milsurv.cli.inspect import app as inspect_app
from milsurv.cli.plugins import PluginGroup
from milsurv.cli.plugins import app as plugins_app
from milsurv.cli.results import app as results_app
from milsurv.cli.run import app as run_app
from milsurv.cli.trained import app as trained_app
from milsurv.errors import MilsurvError
from milsurv.interrupts import Interrupted, end_by_interrupts, raise_interrupts
from milsurv.progress import RunProgress, accept_any_text, discard_output, silence_libraries

app = new_app(
    cls=PluginGroup,
    name="milsurv",
    help="Survival models from whole-slide images: from raw slides to a report, in one command.",
    epilog="Try it without data: milsurv run demo",
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
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


for commands in (run_app, inspect_app, results_app, trained_app, plugins_app):
    app.add_typer(commands)
app.add_typer(features_app, name="features")
app.add_typer(config_app, name="config")
app.add_typer(config_app, name="configs", hidden=True)  # former name


def main() -> None:
    """Run the command line. Errors that the user can fix are printed as one line each; the exit status is 2.

    The exit status is 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, as in a shell.
    """
    silence_libraries()
    accept_any_text()
    raise_interrupts()
    try:
        app()
    except (MilsurvError, OSError) as error:
        problem, status = _message(error), 2
    except Interrupted as stop:
        end_by_interrupts()
        problem, status = None, stop.exit_status
    else:
        return
    try:
        if problem is None:
            RunProgress().warn("stopped; run the same command again to resume")
        for line in (problem or "").splitlines():
            RunProgress().error(line)
    except OSError:  # closed terminal, or full disk of a log file
        discard_output()
    finally:
        sys.exit(status)


def _message(error: MilsurvError | OSError) -> str:
    """The message for the user. Raises ``error`` again if it is a bug."""
    if isinstance(error, MilsurvError):
        return str(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; make sure that it can be read or written"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    discard_output()
    return f"{error.strerror}: free some space where the output is written"
