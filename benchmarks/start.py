"""the command line's start, beside importing what it needs of typer, pydantic, pluggy and rich alone."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Row, command, in_turn, rows_of

COMMANDS = (["--help"], ["list-plugins"])
IMPORTS = (
    "import typer, pluggy; from pydantic import BaseModel; "
    "from rich.console import Console; from rich.table import Table"
)


def rows(quick: bool) -> Iterator[Row]:
    """Wall and CPU time of whole processes."""
    commands = {" ".join(arguments): command("-m", "milsurv", *arguments) for arguments in COMMANDS}
    imports = command("-c", IMPORTS)
    usage = in_turn(1 if quick else 7, {**commands, "imports": imports})
    for name in commands:
        yield from rows_of(f"milsurv {name}", usage[name], usage["imports"], ("wall", "cpu"))
