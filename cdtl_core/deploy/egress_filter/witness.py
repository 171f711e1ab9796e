"""The filter's copy of the privacy ledger, out of reach of the approved code: spending cannot be forgotten.

The training code writes the ledger, so it could also shorten it. Before a reply of a run with differential privacy
leaves, the filter compares the ledger with its own copy, ``HOME/ledger.copy.jsonl``. Every line of the copy must still
be there, and the round of the reply must be reserved. The filter cannot see whether the code really added the noise
that it reserved.
"""

import json
from pathlib import Path

from cdtl_core.errors import CdtlError
from cdtl_core.system.durable import replace_bytes

__all__ = ["LedgerWitness"]

_COPY = "ledger.copy.jsonl"


class LedgerWitness:
    """Reads ``HOME/privacy/ledger.jsonl`` and remembers its lines."""

    def __init__(self, home: Path) -> None:
        self._ledger, self._copy = home / "privacy" / "ledger.jsonl", home / _COPY

    def fault(self, run: str, round: str) -> str:
        """Return why the update of a round must not leave; empty if the ledger is complete and reserves the round.

        Args:
            run: Name and method of the run, as in the ledger.
            round: As in the coordinator's message.
        """
        try:
            known, now = _whole_lines(self._copy), _whole_lines(self._ledger)
        except OSError as error:
            return (
                f"the privacy ledger or its copy cannot be read ({error.strerror}): check the disk and the file's "
                "permissions."
            )
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
