"""Guarded terminal: no output of a command can move the cursor, hide text or change its direction.

Outside values also go through `cdtl_core.system.foreign.visible` one by one, since a line break in a value would forge
a line.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cdtl_core.system.foreign import shown

__all__ = ["guarded_screen", "open_console"]


@contextmanager
def guarded_screen() -> Iterator[None]:
    """Show everything the block writes to stdout and stderr as text, except a console's own colours."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Guarded(sys.stdout), _Guarded(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_console(*, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> Console:
    """Open a rich console that interprets no markup, emoji code or escape in its output.

    Args:
        stderr: Print to stderr.
        width: Columns if the output is not a terminal; None: rich's default.
        soft_wrap: Leave line breaks to the terminal.
    """
    stream = sys.stderr if stderr else sys.stdout
    raw = stream.raw_stream if isinstance(stream, _Guarded) else stream
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": soft_wrap, "file": raw}
    console = _Console(**plain)
    return console if console.is_terminal or width is None else _Console(**plain, width=width)


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with visible text only."""
        for one in super().render(renderable, options):
            yield one if one.control else Segment(shown(one.text), one.style)


class _Guarded:
    """A text stream that makes its text visible."""

    def __init__(self, stream: IO[str]) -> None:
        self.raw_stream = stream

    def write(self, text: str) -> int:
        """Write the visible form of the text."""
        self.raw_stream.write(shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw_stream, name)
