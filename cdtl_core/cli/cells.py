"""Progress of a comparison on stderr: a bar with the remaining time on a terminal, else a line per cell."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cdtl_core.cli.screen import open_console
from cdtl_core.system.foreign import visible
from cdtl_core.system.progress import listen

__all__ = ["showing_cells", "time_left"]


@contextmanager
def showing_cells() -> Iterator[None]:
    """Show progress reports inside the block."""
    console = open_console(stderr=True)
    if not console.is_terminal:
        with listen(_Lines(console)):
            yield
        return
    text, left = (TextColumn(one, markup=False) for one in ("{task.description}", "{task.fields[left]}"))
    columns = (text, BarColumn(), MofNCompleteColumn(), left)
    with Progress(*columns, console=console, transient=True) as bar, listen(_Bar(bar)):
        yield


def time_left(seconds: float, done: int, left: int) -> str:
    """Return the remaining time for `left` cells at the pace of the `done` ones; empty before the first is done."""
    if not done or not left:
        return ""
    minutes = seconds / done * left / 60
    return f"{minutes / 60:.1f} h left" if minutes >= 90 else f"{max(round(minutes), 1)} min left"


class _Pace:
    """Pace of the cells since their first report."""

    def __init__(self) -> None:
        self._began, self._before = 0.0, -1

    def left(self, fields: Mapping[str, object]) -> tuple[int, int, str]:
        """Return cells done, total cells, and remaining time."""
        done, total = (int(str(fields[name])) for name in ("cells_done", "cells"))
        if self._before < 0:
            self._began, self._before = time.monotonic(), done
        return done, total, time_left(time.monotonic() - self._began, done - self._before, total - done)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console, self._pace = console, _Pace()

    def __call__(self, fields: Mapping[str, object]) -> None:
        if "cells" not in fields:
            return
        done, total, left = self._pace.left(fields)
        parts = [f"{done} of {total} cells", visible(fields.get("cell", "")), left]
        line = "; ".join(part for part in parts if part)
        self._console.print(line, soft_wrap=True)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar, self._pace = bar, _Pace()
        self._task = bar.add_task("preparing", total=None, left="")

    def __call__(self, fields: Mapping[str, object]) -> None:
        if "preparing" in fields:
            self._bar.update(self._task, description=f"preparing {visible(fields['preparing'])}")
        if "cells" in fields:
            done, total, left = self._pace.left(fields)
            text = visible(fields.get("cell", "")) or "playing"
            self._bar.update(self._task, description=text, completed=done, total=total, left=left)
