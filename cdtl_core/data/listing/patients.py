"""Where the patient of an image may stand if the manifest lacks it: a form that all file names share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdtl_core.data.listing.pattern import parse_pattern
from cdtl_core.data.source import Row

__all__ = ["NameForm", "is_patient_column", "name_form"]

_FORMS = ("{patient}_*", "{patient}-*", "{patient} *", "*_{patient}_*", "*-{patient}-*")
_WHOLE = "{patient}.*"  # each file name a patient of its own
_ONE_NUMBER = re.compile(r"\D*\d+")  # P12, but not P12a or P12 view 1: these may be images of one patient
_LEAST = 3  # patients; fewer are rather words such as left and right
_STEMS = ("patient", "pacient", "pazient", "pacjent")
_SHORT = {"pat", "patid", "pac", "paz", "mrn"}


@dataclass(frozen=True)
class NameForm:
    """A pattern that fits the names of all images without a patient, and what it finds.

    Attributes:
        pattern: For ``--patient-pattern``.
        name: A file name.
        patient: The patient in it.
        patients: Number of patients that it finds.
    """

    pattern: str
    name: str
    patient: str
    patients: int


def name_form(rows: Sequence[Row]) -> NameForm | None:
    """Return the form of the file names of the rows without a patient; None if they share none.

    A form counts only if it fits all names and finds three patients or more, each with a digit.
    """
    names = [row.file.name for row in rows if not row.patient]
    for pattern in (*_FORMS, _WHOLE):
        asked = parse_pattern(pattern)
        found = [one.get("patient", "") for one in asked.read(names)] if asked else []
        numbered = all(any(letter.isdigit() for letter in patient) for patient in found)
        distinct = len(set(found))
        single = distinct == len(names) and all(map(_ONE_NUMBER.fullmatch, found))
        if numbered and distinct >= _LEAST and (pattern != _WHOLE or single):
            return NameForm(pattern, names[0], found[0], distinct)
    return None


def is_patient_column(column: str) -> bool:
    """Whether a table's column names the patient, in one of several languages: ``Paciente``, ``ID_Patient``."""
    words = "".join(letter if letter.isalpha() else " " for letter in column.casefold()).split()
    return any(word in _SHORT or word.startswith(_STEMS) for word in words)
