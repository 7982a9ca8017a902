"""The typer app, arguments and options that commands share."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from milsurv.cohort.cases import ALLOWED_MPP, MPP_RANGE, is_valid_mpp
from milsurv.errors import MilsurvError

LONGEST = 1000
"""Characters of a command's first sentence in the list of commands, which wraps instead of truncating it."""


class Group(TyperGroup):
    """Lists commands with their whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, command.get_short_help_str(LONGEST))
            for name, command in commands.items()
            if command and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


new_app = partial(typer.Typer, cls=Group, rich_markup_mode=None)
"""A typer app with plain-text help; rich would interpret brackets as markup."""

ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML file or a bundled configuration, such as demo (see milsurv config ls)."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a configuration key, such as training.epochs=5."
    ),
]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Python file that registers plugins.")
]
WorkspaceOption = Annotated[
    Path | None, typer.Option(help="Folder for features and runs (default: ./milsurv-workspace).")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, or one GPU such as cuda:1.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Folder of a finished run, WORKSPACE/runs/NAME[/FINGERPRINT], or of an exported model.",
    ),
]
ModelSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a local path, such as backbone.weights=FILE."),
]


def _require_possible_mpp(mpp: float | None) -> float | None:
    if mpp is not None and not is_valid_mpp(mpp):
        raise MilsurvError(f"--mpp {mpp:g}: allowed are {ALLOWED_MPP}")
    return mpp


MppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        metavar="VALUE",
        callback=_require_possible_mpp,
        help=f"µm per level-0 pixel, {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}; overrides the slide's metadata.",
    ),
]


def new_table(*headings: str, padding: tuple[int, int, int, int] = (0, 1, 0, 1)) -> Table:
    """A table without lines; the cells of ``headings`` are folded when they are too wide."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=padding)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def join_overrides(overrides: list[str] | None, workspace: Path | None, device: str | None) -> list[str]:
    """``--set`` overrides, with those equivalent to ``--workspace`` and ``--device``."""
    options = {"workspace": workspace, "device": device}
    return [
        *(overrides or []),
        *(f"{key}={json.dumps(str(value))}" for key, value in options.items() if value is not None),
    ]
