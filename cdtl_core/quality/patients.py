"""Rules about patients: each image has one, and each patient is in one split only."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from cdtl_core.data.split import SPLITS
from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import Hit, Rule, count_of

__all__ = ["RULES"]


def _missing(cohort: Cohort) -> Iterator[Hit]:
    files = tuple(entry.file for entry in cohort.entries if not entry.patient)
    if files:
        yield Hit(f"{count_of(len(files), 'image', 'have', total=len(cohort.entries))} no patient id.", files)


def _unknown_split(cohort: Cohort) -> Iterator[Hit]:
    found: dict[str, list[Path]] = defaultdict(list)
    for entry in cohort.entries:
        if entry.split and entry.split not in SPLITS:
            found[entry.split].append(entry.file)
    for split, files in sorted(found.items()):
        yield Hit(
            f"{count_of(len(files), 'image', 'have')} the split '{split}', which is none of {', '.join(SPLITS)}.",
            tuple(files),
        )


def _two_splits(cohort: Cohort) -> Iterator[Hit]:
    """Find patients in two splits; the message does not name the patient, because reports may travel."""
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for entry in cohort.entries:
        if entry.patient and entry.split:
            found[entry.patient].append((entry.split, entry.file))
    for images in found.values():
        splits = sorted({split for split, _ in images})
        if len(splits) > 1:
            yield Hit(
                f"one patient's {len(images)} images stand in {' and '.join(splits)}.", tuple(f for _, f in images)
            )


RULES = (
    Rule(
        "patient-missing",
        "error",
        "An image has no patient id, so images of one patient may end up in train and test.",
        "Fill in patient_id; any pseudonym works if each patient has exactly one.",
        _missing,
    ),
    Rule(
        "split-unknown",
        "error",
        "The split column has a value other than train, val, test or nothing.",
        "Write train, val or test, or leave the cell empty.",
        _unknown_split,
    ),
    Rule(
        "patient-in-two-splits",
        "error",
        "A patient's images are in more than one split: the model would be tested on a patient it was trained on.",
        "Give all images of the patient one split, or leave the column empty to have it drawn by patient.",
        _two_splits,
    ),
)
