"""Rules about the pixels: inverted films, burned-in text, colour, another modality."""

from collections import Counter
from collections.abc import Iterator

from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import Hit, Rule, count_of
from cdtl_core.quality.sample import Sample

__all__ = ["RULES"]

LETTERS = 3  # in a row
LETTERS_IN_COLOUR = 5  # stained nuclei form rows too
COLOURED = 0.005  # share of the pixels of a colour image that have colour


def _polarity(cohort: Cohort) -> Iterator[Hit]:
    if cohort.negatives:
        files = tuple(sample.file for sample in cohort.negatives)
        found = count_of(len(files), "image", "look", total=len(cohort.samples))
        yield Hit(f"{found} inverted compared with the others.", files)


def _text(cohort: Cohort) -> Iterator[Hit]:
    tagged = [sample for sample in cohort.samples if sample.facts.tags and sample.facts.tags.burned_in]
    if tagged:
        files = tuple(sample.file for sample in tagged)
        yield Hit(f"{count_of(len(files), 'DICOM file', 'say')} that text is burned into the image.", files)
    shown = sorted((sample for sample in cohort.samples if _has_text(sample)), key=lambda sample: -sample.facts.glyphs)
    if shown:
        files = tuple(sample.file for sample in shown)
        found = count_of(len(files), "image", "seem", total=len(cohort.samples))
        yield Hit(f"{found} to have text burned in.", files)


def _has_text(sample: Sample) -> bool:
    return sample.facts.glyphs >= (LETTERS_IN_COLOUR if sample.facts.is_colour else LETTERS)


def _tag(cohort: Cohort) -> Iterator[Hit]:
    told = [sample.facts.tags for sample in cohort.samples if sample.facts.tags]
    codes = Counter(tags.modality for tags in told if tags.names_modality)
    for code, count in codes.most_common():
        if code not in cohort.modality.dicom:
            files = tuple(s.file for s in cohort.samples if s.facts.tags and s.facts.tags.modality == code)
            found = count_of(count, "DICOM file", "have")
            yield Hit(f"{found} the Modality {code}, the site declares {cohort.modality.name}.", files)


def _colour(cohort: Cohort) -> Iterator[Hit]:
    """Images with colour where the modality is gray, or the reverse."""
    if cohort.modality.colour:
        odd, verb = [s for s in cohort.samples if s.facts.coloured < COLOURED], "are"
    else:
        odd, verb = [s for s in cohort.samples if s.facts.is_colour], "have"
    if odd:
        usual = "in colour" if cohort.modality.colour else "gray"
        found = count_of(len(odd), "image", verb, total=len(cohort.samples))
        files = tuple(s.file for s in sorted(odd, key=lambda s: -s.facts.coloured))
        right = f"No image is {usual}: check whether {cohort.modality.name} is the right modality, and the export."
        yield Hit(
            f"{found} {'gray' if cohort.modality.colour else 'colour'}, {cohort.modality.name} is {usual}.",
            files,
            right if len(odd) == len(cohort.samples) else "",
        )


def _stranger(cohort: Cohort) -> Iterator[Hit]:
    if cohort.strangers:
        files = tuple(sample.file for sample in cohort.strangers)
        found = count_of(len(files), "image", "are", total=len(cohort.samples))
        yield Hit(f"{found} unlike the others in texture, brightness or outline.", files)


RULES = (
    Rule(
        "polarity",
        "warning",
        "Some images look like negatives of the others: a linear model that tells this cohort's images from their own "
        "negatives takes them for negatives. Silent where the two cannot be told apart (lesion crops).",
        "Invert them, or export them from DICOM, whose header says which way is bright; over-exposed images may be "
        "named here too: look at them.",
        _polarity,
    ),
    Rule(
        "burned-in-text",
        "warning",
        "A DICOM header says so (BurnedInAnnotation), or three or more letter-like marks of one height stand in a row "
        "(five in a colour image): names and dates identify a patient, and marks that go with a label are learnt.",
        "Look for names, dates and numbers and blank them; prefer exports without overlays.",
        _text,
    ),
    Rule(
        "modality-tag",
        "error",
        "The Modality in a DICOM header belongs to another modality than the site declares.",
        "Remove these files from the list, or declare the right modality.",
        _tag,
    ),
    Rule(
        "colour",
        "warning",
        "An image has colour where the declared modality is gray, or the reverse.",
        "A photo, a Doppler frame or a screenshot has colour, and an export can lose it: export the image like the "
        "others, or remove it.",
        _colour,
    ),
    Rule(
        "stranger",
        "warning",
        "An image differs from the cohort in texture, brightness, border and outline: perhaps another modality, "
        "another view, a screenshot.",
        "Look at it; remove it from the list if it does not belong to the cohort.",
        _stranger,
    ),
)
