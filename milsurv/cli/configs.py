"""``milsurv configs``: the configurations that come with milsurv, and a copy of one to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from milsurv.cli.help import new_app
from milsurv.errors import MilsurvError
from milsurv.progress import PlainConsole

app = new_app(help="List and copy the configurations that come with milsurv.", no_args_is_help=True)


@app.command("ls")
def list_configs() -> None:
    """List the configurations by name, with what each is for."""
    from milsurv.config.loading import bundled_configs

    table = Table(box=None, pad_edge=False)
    table.add_column("name")
    table.add_column("what it is for")
    for name, file in bundled_configs().items():
        table.add_row(name, _purpose(file))
    PlainConsole().print(table)


@app.command("cp")
def copy_config(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As 'milsurv configs ls' lists it.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to (default: NAME.yaml, here)."),
    ] = None,
) -> None:
    """Copy a configuration, to change it and run the copy. A file that is there is not overwritten."""
    from milsurv.config.loading import find_bundled
    from milsurv.storage.atomic import write_text

    target = output or Path(f"{name}.yaml")
    source = find_bundled(name)
    if target.exists():
        raise MilsurvError(f"{target} is there already; choose another name with --output FILE")
    if not target.parent.is_dir():
        raise MilsurvError(f"{target.parent}: there is no such folder to copy to")
    write_text(target, source.read_text(encoding="utf-8"))
    typer.echo(f"{target}: try it with: milsurv check {target}")


def _purpose(file: Path) -> str:
    """The first line of the comment with which a configuration opens."""
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip().rstrip(".")
