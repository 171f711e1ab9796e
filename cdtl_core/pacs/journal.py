"""What has arrived from a PACS: one line for each study, without names, chained by hashes. It is the audit log too.

::

    {"time": ..., "kind": "study", "study": "9f...", "patient": "07...", "outcome": "complete", "images": 4,
     "bytes": 530432, "series": {"c1...": {"files": [["3e....dcm", 1, 132608, "<SHA-256>"], ...], ...}}, ...}

A line is written when all files of its study are on the disk. What a killed pull left without a line is removed by the
next one.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cdtl_core.errors import CheckpointError
from cdtl_core.system.chained import ChainedLog, LogFiles, link, parse_line
from cdtl_core.system.durable import file_hash

__all__ = ["Arrived", "File", "Journal", "StudyRecord", "log_files"]

_NAME = re.compile(r"[0-9a-f]{16}")
_LARGEST = 1 << 40  # never rotated: it says what has arrived


class File(NamedTuple):
    """An image file: its name in the folder of its series, place in the series, bytes and SHA-256."""

    name: str
    number: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Arrived:
    """A series that has arrived.

    Attributes:
        files: Its images.
        told: How many images the PACS said it has; None: it said nothing.
        is_volume: Whether they are slices of a volume.
        device: Maker and model.
        left_out: Reason to number of images that were left out.
    """

    files: tuple[File, ...]
    told: int | None
    is_volume: bool
    device: str
    left_out: Mapping[str, int]

    @property
    def count(self) -> int:
        """Number of images that came, with those that were left out."""
        return len(self.files) + sum(self.left_out.values())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass
class StudyRecord:
    """A study: keyed hashes, label, and series by keyed hash. `is_complete` only if the last attempt succeeded."""

    patient: str = ""
    accession: str = ""
    label: str = ""
    is_complete: bool = False
    series: dict[str, Arrived] = field(default_factory=dict)


def log_files(out: Path) -> LogFiles:
    """Return the files of the log in a folder of pulled images."""
    return LogFiles(out / "pull.jsonl", out / ".pull" / "head.json", _LARGEST, 1)


class Journal:
    """The journal in a folder of pulled images.

    Raises:
        CheckpointError: It is damaged.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._log = ChainedLog(log_files(out))
        self.studies: dict[str, StudyRecord] = {}
        for line in _lines(log_files(out).path):
            self._apply(line)

    def folder(self, series: str) -> Path:
        """Return the folder of a series."""
        return self._out / "images" / series

    def clean(self, *, verify: bool) -> int:
        """Forget series with missing or changed files, and remove files without a line; return how many were forgotten.

        Args:
            verify: Read every file and compare its hash; otherwise its size.
        """
        forgotten = 0
        for study in self.studies.values():
            for name, arrived in list(study.series.items()):
                if not all(self._is_whole(name, file, verify=verify) for file in arrived.files):
                    del study.series[name]
                    study.is_complete = False
                    forgotten += 1
        known = {name for study in self.studies.values() for name in study.series}
        for folder in (self._out / "images").glob("*"):
            if _NAME.fullmatch(folder.name) and folder.name not in known:
                shutil.rmtree(folder)
        return forgotten

    def add(self, name: str, study: StudyRecord, *, reason: str = "") -> None:
        """Write the line of a study.

        Args:
            name: Its keyed hash.
            study: What has arrived of it.
            reason: Why it is not complete.

        Raises:
            CheckpointError: The disk is full or read-only.
        """
        arrived = study.series.values()
        left_out: dict[str, int] = {}
        for one in arrived:
            for why, count in one.left_out.items():
                left_out[why] = left_out.get(why, 0) + count
        self._write(
            {
                "kind": "study",
                "study": name,
                "patient": study.patient,
                "accession": study.accession,
                "label": study.label,
                "outcome": "complete" if study.is_complete else "failed",
                "reason": reason,
                "images": sum(len(one.files) for one in arrived),
                "bytes": sum(one.size for one in arrived),
                "left_out": left_out,
                "series": {key: _encoded(one) for key, one in sorted(study.series.items())},
            }
        )

    def add_missing(self, accession: str, reason: str) -> None:
        """Write the line of an accession number, a keyed hash, for which no study was found, and why."""
        self._write({"kind": "missing", "accession": accession, "reason": reason})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._log.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), **line})
        self._apply(line)

    def _apply(self, line: Mapping[str, Any]) -> None:
        if line["kind"] == "study":
            self.studies[line["study"]] = StudyRecord(
                patient=line["patient"],
                accession=line["accession"],
                label=line["label"],
                is_complete=line["outcome"] == "complete",
                series={key: _decoded(one) for key, one in line["series"].items()},
            )

    def _is_whole(self, series: str, file: File, *, verify: bool) -> bool:
        path = self.folder(series) / file.name
        try:
            if path.stat().st_size != file.size:
                return False
        except OSError:
            return False
        return not verify or file_hash(path) == file.sha256


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of the journal; half a line left by a kill is none.

    Raises:
        CheckpointError: Another line is damaged or was edited.
    """
    try:
        content = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    before = ""
    for number, line in enumerate(content, 1):
        found = parse_line(line)
        if found is None and number == len(content) and not line.endswith(b"\n"):
            return
        if found is None or link(before, found[0]) != found[1]:
            raise CheckpointError(
                f"line {number} of {path} is damaged or was edited: restore the file from a backup, or pull into a new "
                "folder."
            )
        before = found[1]
        yield found[0]


def _encoded(arrived: Arrived) -> dict[str, Any]:
    return {
        "files": [list(file) for file in arrived.files],
        "told": arrived.told,
        "volume": arrived.is_volume,
        "device": arrived.device,
        "left_out": dict(arrived.left_out),
    }


def _decoded(value: Mapping[str, Any]) -> Arrived:
    files = tuple(File(*file) for file in value["files"])
    return Arrived(files, value["told"], value["volume"], value["device"], value["left_out"])
