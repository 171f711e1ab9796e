"""Pages of help without cut sentences, and one suggestion for a mistyped command."""

from typing import Any

import click
import typer
import typer.core

__all__ = ["new_app"]

typer.core.HAS_RICH = False  # typer 0.20 escapes "[required]" for rich although rich_markup_mode is None
_LONGEST = 1000  # characters of the first sentence of a help


class _Group(typer.core.TyperGroup):
    """A group whose page shows the whole first sentence of each command; click cuts it at the width of a line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one entry per command."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(_LONGEST)) for name, one in found if one is not None and not one.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def new_app(help: str, **options: Any) -> typer.Typer:
    """Return a group of commands.

    Args:
        help: What they are for.
        options: Of `typer.Typer`.
    """
    return typer.Typer(
        cls=_Group,
        help=help,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        suggest_commands=False,  # click suggests too
        **options,
    )
