"""``milsurv config``: the bundled configurations, and the JSON schema of a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from milsurv.cli.common import PluginOption, new_app, new_table
from milsurv.errors import MilsurvError
from milsurv.progress import PlainConsole

app = new_app(help="List and copy bundled configurations, or print the JSON schema.", no_args_is_help=True)


@app.command("ls")
def list_configs() -> None:
    """List the bundled configurations."""
    from milsurv.config.loading import bundled_configs

    table = new_table()
    table.add_column("name")
    table.add_column("purpose")
    for name, file in bundled_configs().items():
        first_line = file.read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(name, first_line.removeprefix("#").strip().rstrip("."))
    PlainConsole().print(table)


@app.command("cp")
def copy_config(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name as listed by 'milsurv config ls'.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write (default: ./NAME.yaml)."),
    ] = None,
) -> None:
    """Copy a bundled configuration, to edit and run it. Existing files are not overwritten."""
    from milsurv.config.loading import find_bundled
    from milsurv.storage.atomic import write_text

    target = output or Path(f"{name}.yaml")
    source = find_bundled(name)
    if target.exists():
        raise MilsurvError(f"{target} already exists; choose another name with --output FILE")
    if not target.parent.is_dir():
        raise MilsurvError(f"{target.parent}: no such folder")
    write_text(target, source.read_text(encoding="utf-8"))
    typer.echo(f"Created {target}. Check it with: milsurv check {target}")


@app.command()
def schema(plugin: PluginOption = None) -> None:
    """Print the JSON schema of a configuration, including the settings of installed plugins, for use in an editor."""
    from milsurv.config.schema import config_schema
    from milsurv.plugin.registry import get_registry

    typer.echo(json.dumps(config_schema(get_registry(plugin or ())), indent=2, ensure_ascii=False))
