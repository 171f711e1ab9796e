"""Rules about files: readable, not empty, stored in the same way."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from cdtl_core.data.facts import Fault
from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import Hit, Rule, count_of

__all__ = ["RULES"]

SMALLEST = 32  # pixels of the shorter side
SIZE_FACTOR = 3.0
_NAMED = 5  # exams


def _unreadable(cohort: Cohort) -> Iterator[Hit]:
    exams = {entry.file: entry.exam for entry in cohort.entries}
    by_reason: dict[str, list[Fault]] = defaultdict(list)
    for fault in cohort.faults:
        by_reason[fault.reason].append(fault)
    for reason, faults in by_reason.items():
        message = faults[0].sentence if len(faults) == 1 else f"each of {len(faults)} images {reason}"
        named = sorted({exams.get(fault.file, "") for fault in faults} - {""})
        message = f"exam {', '.join(named[:_NAMED])}{', ...' * (len(named) > _NAMED)}: {message}" if named else message
        yield Hit(message, tuple(fault.file for fault in faults))


def _empty(cohort: Cohort) -> Iterator[Hit]:
    if cohort.empty:
        files = tuple(sample.file for sample in cohort.empty)
        found = count_of(len(files), "image", "show", total=len(cohort.entries))
        yield Hit(f"{found} one level of gray only.", files)


def _odd_size(cohort: Cohort) -> Iterator[Hit]:
    if not cohort.samples:
        return
    sides = np.array([max(s.facts.width, s.facts.height) for s in cohort.samples])
    short = np.array([min(s.facts.width, s.facts.height) for s in cohort.samples])
    usual = float(np.median(sides))
    odd = (short < SMALLEST) | (sides * SIZE_FACTOR < usual) | (sides > usual * SIZE_FACTOR)
    files = tuple(sample.file for sample, is_odd in zip(cohort.samples, odd, strict=True) if is_odd)
    if files:
        found = count_of(len(files), "image", "are")
        yield Hit(f"{found} far from the usual {usual:.0f} pixels, or under {SMALLEST} on the shorter side.", files)


def _mixed_bits(cohort: Cohort) -> Iterator[Hit]:
    depths = Counter(sample.facts.bits for sample in cohort.samples)
    if len(depths) < 2:
        return
    usual, _ = depths.most_common(1)[0]
    rare = tuple(sample.file for sample in cohort.samples if sample.facts.bits != usual)
    counts = ", ".join(f"{number} with {bits} bits" for bits, number in depths.most_common())
    yield Hit(f"the images differ in bit depth: {counts}.", rare)


RULES = (
    Rule(
        "unreadable",
        "error",
        "A file is missing, truncated or in no format that can be decoded; the slices of a series do not belong "
        "together; a slide shows no tissue.",
        "Restore the file from its source, do what the sentence says, or remove it from the list.",
        _unreadable,
    ),
    Rule(
        "empty",
        "error",
        "An image is constant: the standard deviation of its gray levels is below 1 of 255.",
        "Export the image again; if it is empty at its source, remove it from the list.",
        _empty,
    ),
    Rule(
        "odd-size",
        "warning",
        "An image's longer side is under a third or over three times the median, or its shorter under 32 pixels.",
        "Check whether it is a thumbnail, a screenshot or a page of a report; export it like the others.",
        _odd_size,
    ),
    Rule(
        "mixed-bits",
        "warning",
        "Images are stored with different numbers of bits; 12-bit values in a 16-bit file come out nearly black.",
        "Export all images at one bit depth, or from DICOM, which defines how values are displayed.",
        _mixed_bits,
    ),
)
