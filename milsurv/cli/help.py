"""How ``--help`` is laid out: as plain text, in which brackets are brackets."""

from __future__ import annotations

from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

LONGEST = 1000


class Group(TyperGroup):
    """Commands with their whole first sentence, wrapped rather than cut."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, command.get_short_help_str(LONGEST)) for name, command in commands.items() if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


new_app = partial(typer.Typer, cls=Group, rich_markup_mode=None)
"""A typer app whose help texts are plain: rich would take what stands in brackets for markup."""
