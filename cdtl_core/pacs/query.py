"""What is asked of a PACS, and what it answers: studies and series. Identifiers live here in memory only."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cdtl_core.data.source import read_table
from cdtl_core.errors import ConfigError, DataError

__all__ = ["Asked", "Query", "Series", "Study", "as_count", "asked_for", "read_accessions", "unique"]

_WILD = frozenset("*?\\")
_LONGEST = 16  # characters of an accession number in DICOM


@dataclass(frozen=True)
class Series:
    """A series of a study, as the PACS describes it."""

    uid: str = field(repr=False)
    modality: str = ""
    description: str = field(default="", repr=False)
    images: int | None = None


@dataclass(frozen=True)
class Study:
    """A study, as the PACS describes it; `label` is from the table of accession numbers."""

    uid: str = field(repr=False)
    accession: str = field(default="", repr=False)
    day: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    modalities: tuple[str, ...] = ()
    images: int | None = None
    label: str = ""


@dataclass(frozen=True)
class Asked:
    """One question to the PACS: an accession number with its label, a study UID, or neither (the query alone)."""

    accession: str = field(default="", repr=False)
    label: str = ""
    study: str = field(default="", repr=False)


@dataclass(frozen=True)
class Query:
    """Conditions on studies and series; an empty one is met by all.

    Attributes:
        modality: DICOM codes of which a series must have one, such as ``US``.
        since: First day of a study.
        until: Last day of a study.
        study_description: A pattern with ``*`` and ``?``, without regard to case.
        series_description: As above.
    """

    modality: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    study_description: str = ""
    series_description: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether every study of the PACS meets it."""
        return self == Query()

    def keys(self, asked: Asked) -> Mapping[str, str]:
        """Return the matching keys of a question, by attribute."""
        days = f"{self.since:%Y%m%d}" if self.since else "", f"{self.until:%Y%m%d}" if self.until else ""
        found = {
            "StudyInstanceUID": asked.study,
            "AccessionNumber": asked.accession,
            "StudyDate": "-".join(days) if any(days) else "",
            "StudyDescription": self.study_description,
            "ModalitiesInStudy": self.modality[0] if len(self.modality) == 1 else "",
        }
        return {name: value for name, value in found.items() if value}

    def wants(self, study: Study, asked: Asked) -> bool:
        """Whether a study is one that was asked for: some PACS ignore a key they do not know and return everything."""
        day = study.day
        return (
            (not asked.accession or study.accession == asked.accession)
            and (not asked.study or study.uid == asked.study)
            and (self.since is None or not day or day >= f"{self.since:%Y%m%d}")
            and (self.until is None or not day or day <= f"{self.until:%Y%m%d}")
            and _matches(study.description, self.study_description)
            and (not self.modality or not study.modalities or bool({*self.modality} & {*study.modalities}))
        )

    def wants_all_series(self, study: Study) -> bool:
        """Whether each series of a study is one that was asked for."""
        fits = not self.modality or (study.modalities and {*study.modalities} <= {*self.modality})
        return bool(fits) and not self.series_description and bool(study.modalities)

    def wants_series(self, series: Series) -> bool:
        """Whether a series is one that was asked for."""
        fits = not self.modality or not series.modality or series.modality in self.modality
        return fits and _matches(series.description, self.series_description)


def _matches(text: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(text.casefold(), pattern.casefold())


def read_accessions(path: Path, columns: Mapping[str, str]) -> list[Asked]:
    """Read a table of accession numbers with labels.

    Args:
        path: A CSV file with the columns ``accession_number`` and, if there are labels, ``label``.
        columns: Other names of these columns: ``{"label": "Diagnosis"}``.

    Raises:
        DataError: It lacks a column, an accession number is malformed, or one has two labels.
        ConfigError: `columns` names an unknown column.
    """
    known = {"accession_number": "accession_number", "label": "label"}
    if unknown := sorted(set(columns) - set(known)):
        raise ConfigError(f"--column {unknown[0]} is unknown: use accession_number or label.")
    names = {**known, **columns}
    found, lines = read_table(path, "table of accession numbers", "give a CSV file with the column accession_number")
    for name in ("accession_number", *columns):
        if names[name] not in found:
            raise DataError(
                f"the table {path} lacks the column {names[name]}: its first line must hold the names of its "
                f"{len(found)} columns. Name the column with --column {name}=YOURS."
            )
    asked: dict[str, Asked] = {}
    for number, line in enumerate(lines, 2):
        one = _asked(line.get(names["accession_number"], ""), line.get(names["label"], ""), f"{path}, line {number}")
        if asked.setdefault(one.accession, one).label != one.label:
            raise DataError(f"{path}, line {number}: this accession number has another label above: keep one.")
    if not asked:
        raise DataError(f"the table {path} lists no accession number: add a row for each study.")
    return list(asked.values())


def asked_for(accession: str, study: str) -> Asked:
    """Return the question for one study, by its accession number or its UID.

    Raises:
        ConfigError: It is malformed.
    """
    if study and not re.fullmatch(r"[0-9.]{1,64}", study.strip()):
        raise ConfigError("--study is no UID: give the StudyInstanceUID, digits and dots.")
    if study:
        return Asked(study=study.strip())
    return _asked(accession, "", "--accession")


def _asked(accession: str, label: str, place: str) -> Asked:
    number = accession.strip()
    if not number or len(number) > _LONGEST or _WILD & set(number) or not number.isprintable():
        raise DataError(
            f"{place}: the accession number is empty, longer than {_LONGEST} characters, or has *, ? or a backslash, "
            "with which a PACS would return other studies: correct the row."
        )
    return Asked(number, label.strip())


def unique(studies: Iterable[Study]) -> list[Study]:
    """Return studies without repetitions, in their order."""
    return list({one.uid: one for one in reversed(list(studies))}.values())[::-1]


def as_count(value: Any) -> int | None:
    """Return a number that the PACS tells, None if it tells none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
