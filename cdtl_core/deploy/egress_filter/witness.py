"""The filter's copy of the privacy ledger, out of the approved code's reach: spending cannot be forgotten.

The code that trains writes the ledger, so it could also shorten it. Before a reply of a run with differential privacy
leaves, the filter compares the ledger with its own copy, ``HOME/ledger.copy.jsonl``: every line that was there must be
there still, and the round that is answered must be reserved. What the filter cannot see is whether the code really
added the noise that it reserved.
"""

import json
from pathlib import Path

from cdtl_core.errors import CdtlError
from cdtl_core.system.durable import replace_bytes

__all__ = ["LedgerWitness"]

_COPY = "ledger.copy.jsonl"


class LedgerWitness:
    """Looks at ``HOME/privacy/ledger.jsonl`` and remembers it."""

    def __init__(self, home: Path) -> None:
        self._ledger, self._copy = home / "privacy" / "ledger.jsonl", home / _COPY

    def fault(self, run: str, round: str) -> str:
        """Why the update of this round must not leave; empty if the ledger holds all it held and reserves the round.

        Args:
            run: Name and method of the run, as in the ledger.
            round: As in the coordinator's message.
        """
        try:
            known, now = _whole_lines(self._copy), _whole_lines(self._ledger)
        except OSError as error:
            return f"the privacy ledger or its copy cannot be read ({error.strerror}): check the disk and its rights."
        if not now.startswith(known):
            return (
                f"the privacy ledger {self._ledger} has lost or changed lines that it had: put the filter's copy back "
                f"with cp {self._copy} {self._ledger}, and ask who changed it."
            )
        if now != known:
            try:
                replace_bytes(self._copy, now, mode=0o600)
            except CdtlError as error:
                return f"the copy of the privacy ledger cannot be kept: {error}"
        if not any(_reserves(line, run, round) for line in now.splitlines()):
            return f"the privacy ledger reserves nothing for round {round} of {run}: its update does not leave."
        return ""


def _whole_lines(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _reserves(line: bytes, run: str, round: str) -> bool:
    try:
        entry = json.loads(line)["entry"]
        return entry["kind"] == "reservation" and entry["run"] == run and str(entry["round"]) == round
    except (ValueError, KeyError, TypeError):
        return False
