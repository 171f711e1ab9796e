"""A person at a terminal whose steps are counted as they are done, and whose time is estimated by a stated rule.

The rule is the keystroke-level model of Card, Moran and Newell (1980): seconds for each key, and for preparing each
step; all that a command prints is read once, at the mean speed of Brysbaert (2019). Calls are estimated on top. What
the machine takes is measured and kept apart.
"""

import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.first_hour.terminal import Terminal

__all__ = ["Afternoon"]

KEY_S = 0.28  # an average typist who does no touch typing, 40 words a minute
PREPARE_S = 1.35  # to prepare a step in mind
WORD_S = 60 / 238  # reading silently
CALL_S = 60.0  # to dial, to be put through, to say who calls
GROUP_S = 2.0  # to read out or hear four hex digits, and to compare them
_LIMIT_S = 1500.0


@dataclass
class Step:
    """A command, an answer or a file that was written; a call is none, but takes time."""

    what: str
    person_s: float
    machine_s: float = 0.0
    counts: bool = True


@dataclass
class Afternoon:
    """The steps of one person in a folder."""

    folder: Path
    steps: list[Step] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of commands, answers and files."""
        return sum(step.counts for step in self.steps)

    @property
    def person_s(self) -> float:
        """A person's time by the rule."""
        return sum(step.person_s for step in self.steps)

    @property
    def machine_s(self) -> float:
        """Time for which the person waited for commands."""
        return sum(step.machine_s for step in self.steps)

    def write(self, path: str, text: str) -> None:
        """Write a file with an editor."""
        (self.folder / path).write_text(text)
        self.steps.append(Step(f"write {path}", _typed(f"nano {path}") + _typed(text)))

    def command(self, *words: str) -> str:
        """Run a command to its end; returns what it printed."""
        began = time.monotonic()
        own = [sys.executable, "-m", "cdtl_core.cli.main", *words]
        done = subprocess.run(own, cwd=self.folder, capture_output=True, text=True, timeout=_LIMIT_S)
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed
        self._add(["cdtl", *words], printed, time.monotonic() - began)
        return printed

    def service(self, *words: str) -> None:
        """Note a command that goes on in the background; the caller starts it."""
        self._add(["cdtl", *words, "&"], "", 0.0)

    def talk(self, *words: str, answers: dict[str, str]) -> str:
        """Run a command that asks; answers are by the beginning of the question. Returns what it printed."""
        began = time.monotonic()
        with Terminal(self.folder, *words) as terminal:
            for question, text in answers.items():
                terminal.answer(question, text)
            assert terminal.end() == 0, terminal.text
            printed = _shown(terminal.text)
        self._add(["cdtl", *words], printed, time.monotonic() - began)
        for question, text in answers.items():
            self.steps.append(Step(f"  {question}: {text or '(Enter)'}", _typed(text)))
        return printed

    def call(self, what: str, groups: int) -> None:
        """Talk by telephone, with so many groups of a fingerprint."""
        self.steps.append(Step(f"({what})", CALL_S + GROUP_S * groups, counts=False))

    def lines(self) -> list[str]:
        """Return the list of steps with their seconds."""
        found, number = [], 0
        for step in self.steps:
            number += step.counts
            name = f"{number:2}. {step.what}" if step.counts else f"    {step.what}"
            found.append(f"{name[:96]:<96} {step.person_s:5.0f} s {step.machine_s:6.0f} s")
        return found

    def _add(self, words: list[str], printed: str, machine_s: float) -> None:
        reading = WORD_S * len(printed.split())
        self.steps.append(Step(shlex.join(words), _typed(shlex.join(words)) + reading, machine_s))


def _typed(text: str) -> float:
    return PREPARE_S + KEY_S * (len(text) + 1)


def _shown(text: str) -> str:
    """Return the text of a terminal as it is at the end: without colours, and of a line of progress the last state."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return "\n".join(line.rpartition("\r")[2] for line in plain.split("\n"))
