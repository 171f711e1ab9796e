"""Progress on the terminal: method, round, site, step and remaining time; silent if stderr is not a terminal.

After Ctrl-C: how the work continues.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cdtl_core.cli.screen import open_console
from cdtl_core.system.foreign import visible
from cdtl_core.system.progress import listen, report

__all__ = ["ending_once", "resumable", "showing_progress", "showing_steps"]


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show progress reports inside the block."""
    console = open_console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar, listen(_Display(bar)):
        yield


@contextmanager
def showing_steps() -> Iterator[Callable[[str], None]]:
    """Show the steps that the block tells: on a terminal with the progress of each, else one line each on stderr."""
    if not sys.stderr.isatty():
        yield lambda text: typer.echo(text, err=True)
        return
    with showing_progress():
        yield lambda text: report(doing=text)


@contextmanager
def resumable(command: str, folder: Path) -> Iterator[None]:
    """On Ctrl-C inside the block print the command that continues, and exit with 130.

    Args:
        command: The command without its options, for example ``cdtl simulate``.
        folder: The folder of its work. A command that is stopped before it trains removes it.
    """
    try:
        yield
    except KeyboardInterrupt:
        how = f"continue with: {command} --resume {folder}" if folder.exists() else "nothing is kept"
        typer.echo(f"\nInterrupted; {how}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def ending_once() -> Iterator[None]:
    """End the block at the first SIGINT, SIGTERM or SIGHUP; later ones cannot cut the clean-up short."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        typer.echo("Ending all programs ...", err=True)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Display:
    """Turns reports into one line. Work is counted in visits: methods x rounds x sites."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("preparing", total=None)
        self._now: dict[str, object] = {}
        self._visits = 0

    def __call__(self, fields: Mapping[str, object]) -> None:
        self._now |= fields
        if "doing" in fields:
            self._bar.update(self._task, description=visible(fields["doing"]), completed=0, total=None)
            return
        counted = next((name for name in ("decoded", "examined", "kept", "pulled") if name in fields), "")
        if counted or "preparing" in fields:
            done, total = (self._number(counted), self._number("of")) if counted else (0.0, None)
            self._bar.update(self._task, description=self._text("preparing", counted), completed=done, total=total)
            return
        if "site" in fields:
            self._visits += 1
        step, steps, visits = self._number("step"), self._number("steps"), self._number("visits")
        share = step / steps if "step" in fields and steps else 0.0
        self._bar.update(
            self._task,
            description=self._text("method", "round", "site", "step"),
            completed=max(self._visits - 1 + share, 0),
            total=visits or None,
        )

    def _number(self, name: str) -> float:
        value = self._now.get(name, 0)
        return float(value) if isinstance(value, int | float) else 0.0

    def _text(self, *names: str) -> str:
        wholes = {"round": "rounds", "step": "steps", "decoded": "of", "examined": "of", "kept": "of", "pulled": "of"}
        parts = []
        for name in names:
            if name in self._now:
                whole = f"/{self._now[wholes[name]]}" if name in wholes and wholes[name] in self._now else ""
                parts.append(f"{name} {visible(self._now[name])}{whole}")
        return "  ".join(parts)
