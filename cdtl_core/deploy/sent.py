"""The replies that left a site, one line each for its service's log, as the egress filter records them."""

from pathlib import Path
from typing import Any

from cdtl_core.config.folders import federation_key
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.deploy.egress_filter.refusals import NOT_APPROVED
from cdtl_core.deploy.records import egress_files
from cdtl_core.results.text import bytes_text
from cdtl_core.system.chained import parse_line
from cdtl_core.system.foreign import get_logger, visible

__all__ = ["SentReplies"]

_log = get_logger("cdtl.deploy")


class SentReplies:
    """Reads the end of ``logs/egress.jsonl`` and logs each reply written there since this object was made."""

    def __init__(self, home: Path) -> None:
        self._home, self._path = home, egress_files(home).path
        self._read = self._size()
        self._last = ""

    def say(self) -> None:
        """Log what is new; a repeated refusal is logged once."""
        for line in self._new_lines():
            found = parse_line(line)
            text = self._text(found[0]) if found and found[0].get("kind") == "reply" else ""
            if text and text != self._last:
                _log.info("%s", text)
                self._last = text

    def _new_lines(self) -> list[bytes]:
        """Return the whole lines since the last call; the log begins a new file when one is full."""
        if self._size() == self._read:
            return []
        start = self._read if self._size() > self._read else 0
        try:
            with open(self._path, "rb") as file:
                file.seek(start)
                new = file.read()
        except OSError:  # it is looked at again in a moment
            return []
        whole = new.rfind(b"\n") + 1
        self._read = start + whole
        return new[:whole].splitlines(keepends=True)

    def _text(self, line: dict[str, Any]) -> str:
        run, round = visible(line.get("run") or "a run"), visible(line.get("round"))
        if line.get("error") == list(NOT_APPROVED):
            return f"{run}: its code does not run here: {visible(line.get('why'))}"
        if line.get("verdict") != "approved":
            return f"{run}: {visible(line.get('verdict'))}, no update was sent: {visible(line.get('why'))}"
        method, rounds = self._terms(str(line.get("run")))
        if line.get("type") == "train":
            return f"{run}: round {round}{rounds} trained, update of {bytes_text(line.get('bytes'))} sent"
        if line.get("type") == "evaluate":
            place = self._home / "models" / federation_key(run, method)
            return f"{run}: finished; the model is in {place}, and cdtl report {self._home} shows it"
        return f"{run}: introduced itself to the coordinator"

    def _terms(self, run: str) -> tuple[str, str]:
        """Return the method of an approved run, and its number of rounds as text."""
        for approval in approvals(self._home).values():
            if approval.settings.get("name") == run:
                return str(approval.settings["method"]), f" of {approval.settings['federation.rounds']}"
        return "cdtl", ""

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0
