"""What the check of a cohort cannot judge, so that silence is not taken for an answer."""

from collections import defaultdict
from collections.abc import Iterator

from cdtl_core.data import glyphs
from cdtl_core.data.facts import TILES
from cdtl_core.quality import polarity, shortcut, strangers
from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import count_of

__all__ = ["limits_of"]


def limits_of(cohort: Cohort) -> tuple[str, ...]:
    """Return what was not judged about this cohort, one phrase each."""
    return (
        *_modality(cohort),
        *_comparisons(cohort),
        *_shortcuts(cohort),
        *_text(cohort),
        *_held(cohort),
        *_labels(cohort),
        "whether labels and patient ids are right, and copies that are mirrored, rotated or cropped",
    )


def _modality(cohort: Cohort) -> Iterator[str]:
    name, count = cohort.modality.name, len(cohort.samples)
    told = sum(bool(s.facts.tags and s.facts.tags.names_modality) for s in cohort.samples)
    if told < count:
        which = "the images are" if not told else f"{count - told} of {count} images are"
        yield f"whether {which} {name}: no DICOM header says so, and pixels only tell gray from colour"


def _comparisons(cohort: Cohort) -> Iterator[str]:
    kind = "colour" if cohort.modality.colour else "gray"
    alike = sum(sample.facts.is_colour == cohort.modality.colour for sample in cohort.samples)
    for what, least in (("inverted", polarity.LEAST_IMAGES), ("unlike the others", strangers.LEAST_IMAGES)):
        if alike < least:
            yield f"which images are {what}: this needs {least} {kind} images, there are {alike}"


def _shortcuts(cohort: Cohort) -> Iterator[str]:
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in cohort.readable:
        owners[entry.label].add(entry.owner)
    least = shortcut.LEAST_GROUPS
    few = [f"{label or 'no label'} has {len(one)}" for label, one in sorted(owners.items()) if len(one) < least]
    if few:
        yield f"whether size, border or histogram give a label away: this needs {least} patients each; {', '.join(few)}"


def _text(cohort: Cohort) -> Iterator[str]:
    small = sum(max(s.facts.width, s.facts.height) < glyphs.SMALLEST for s in cohort.samples)
    if small:
        yield f"burned-in text in {count_of(small, 'image')} of fewer than {glyphs.SMALLEST} pixels"


def _held(cohort: Cohort) -> Iterator[str]:
    plans = [sample.facts.plan for sample in cohort.samples]
    slides = sum(plan.kind == "slide" and plan.total > TILES for plan in plans)
    if slides:
        yield f"whether every tile can be read: {TILES} were of each of {count_of(slides, 'slide')}"
    frames = sum(plan.kind in {"frames", "pages"} for plan in plans)
    if frames:
        yield f"the frames of {count_of(frames, 'file')} that are not in the middle"


def _labels(cohort: Cohort) -> Iterator[str]:
    if not cohort.labels:
        yield "whether the labels are those of the task: none were given (--labels)"
