"""Tables that fit the terminal: what is too wide continues in a further table, and no number is cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

__all__ = ["Column", "print_columns"]


@dataclass(frozen=True)
class Column:
    """A column: its header, and one cell per row; both may have several lines."""

    header: str
    cells: Sequence[str]
    justify: JustifyMethod = "right"


def print_columns(
    console: Console, title: str, columns: Sequence[Column], *, keys: int = 1, sections: Sequence[bool] = ()
) -> None:
    """Print columns as one table, or as several if it is wider than the console.

    Args:
        console: Where to print.
        title: Above the first table.
        columns: All columns, with equal numbers of cells.
        keys: Number of first columns, which name a row: each table repeats them.
        sections: Whether a line follows each row; empty: after every row.
    """
    names, left, heading = list(columns[:keys]), list(columns[keys:]), title
    while left:
        count = len(left)
        while count > 1 and _width(console, [*names, *left[:count]]) > console.width:
            count -= 1
        console.print(_table([*names, *left[:count]], heading, sections))
        left, heading = left[count:], ""


def _width(console: Console, columns: Sequence[Column]) -> int:
    options = console.options.update(max_width=10_000)
    return console.measure(_table(columns, "", ()), options=options).maximum


def _table(columns: Sequence[Column], title: str, sections: Sequence[bool]) -> Table:
    table = Table(title=title or None, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column.header, justify=column.justify, overflow="fold")
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*cells, end_section=sections[index] if sections else True)
    return table
