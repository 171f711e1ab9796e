"""A command in a terminal, and a person who answers its questions."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

__all__ = ["Terminal"]

_LIMIT_S = 60.0


class Terminal:
    """Runs `cdtl` in a pseudo-terminal.

    Attributes:
        text: All that it printed.
        questions: Number of answers that were typed.
        typed: Number of characters that were typed.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.text, self.questions, self.typed, self._read = "", 0, 0, 0
        self._own, other = pty.openpty()
        command = [sys.executable, "-m", "cdtl_core.cli.main", *arguments]
        environment = {**os.environ, "TERM": "dumb", "COLUMNS": "400"}
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=other, stdout=other, stderr=other, env=environment, preexec_fn=_own_terminal
        )
        os.close(other)

    def answer(self, question: str, text: str = "") -> str:
        """Wait for a question, and type an answer; returns what was printed before the question."""
        said = self.until(question)
        self.until(": ")  # its end, behind the default
        self.questions, self.typed = self.questions + 1, self.typed + len(text) + 1
        os.write(self._own, f"{text}\n".encode())
        return said

    def until(self, text: str) -> str:
        """Wait for a text; returns what was printed since the last one."""
        end = time.monotonic() + _LIMIT_S
        while (at := self.text.find(text, self._read)) < 0:
            assert time.monotonic() < end, f"no {text!r} in {self.text[self._read :]!r}"
            assert self._more(), f"it ended before {text!r}: {self.text[self._read :]!r}"
        begin, self._read = self._read, at + len(text)
        return self.text[begin : self._read]

    def interrupt(self, question: str) -> int:
        """Wait for a question and press Ctrl-C; returns the exit code.

        A key that is pressed just before the command reads does nothing to `input`, so it is pressed again.
        """
        self.until(question)
        end = time.monotonic() + _LIMIT_S
        while True:
            assert time.monotonic() < end, f"Ctrl-C at {question!r} did not end it"
            os.write(self._own, b"\x03")
            pressed = time.monotonic()
            while (left := pressed + 1.0 - time.monotonic()) > 0:
                if select.select([self._own], [], [], left)[0] and not self._more():
                    return self.end()

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        while self._more():
            pass
        return self._process.wait(_LIMIT_S)

    def _more(self) -> bool:
        ready, _, _ = select.select([self._own], [], [], _LIMIT_S)
        try:
            got = os.read(self._own, 65536) if ready else b""
        except OSError:  # Linux says so at the end of a terminal
            got = b""
        self.text += got.decode(errors="replace").replace("\r\n", "\n")
        return bool(got)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)


def _own_terminal() -> None:
    """Make the terminal of stdin the process's own, so that Ctrl-C reaches it, and is not ignored as under nohup."""
    import fcntl
    import signal
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
