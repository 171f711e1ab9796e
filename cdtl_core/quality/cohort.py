"""A cohort as the rules see it: the list, the facts of its images, and relations between images."""

from collections.abc import Sequence
from dataclasses import dataclass

from cdtl_core.config.modalities import Modality
from cdtl_core.data.facts import Fault, ImageFacts
from cdtl_core.errors import DataError
from cdtl_core.quality.polarity import find_negatives
from cdtl_core.quality.sample import Entry, Sample, spread_labels
from cdtl_core.quality.similarity import Pair, find_pairs
from cdtl_core.quality.strangers import find_strangers

__all__ = ["Cohort", "assemble", "unread"]


@dataclass(frozen=True, eq=False)
class Cohort:
    """All data that a rule may use.

    Attributes:
        entries: The site's list; images of an exam that had no label have the exam's.
        modality: The modality that the site declares.
        labels: The labels it may use; empty if not known.
        faults: Images that cannot be read.
        empty: Images that show nothing.
        samples: All other images.
        readable: Entries of the samples; of a list whose images were not read, all entries.
        pairs: Duplicates among the samples.
        negatives: Samples with the expected kind of colour that look inverted.
        strangers: Samples with the expected kind of colour that are unlike the others, inverted or not.
    """

    entries: tuple[Entry, ...]
    modality: Modality
    labels: tuple[str, ...]
    faults: tuple[Fault, ...]
    empty: tuple[Sample, ...]
    samples: tuple[Sample, ...]
    readable: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    negatives: tuple[Sample, ...]
    strangers: tuple[Sample, ...]


def unread(entries: Sequence[Entry]) -> Cohort:
    """Return a cohort whose images were not read and whose modality is not known, for the rules about the list."""
    every = spread_labels(entries)
    unknown = Modality("unknown", colour=False, dicom=())
    return Cohort(every, unknown, (), (), (), (), every, (), (), ())


def assemble(
    entries: Sequence[Entry], facts: Sequence[ImageFacts | Fault], *, modality: Modality, labels: Sequence[str]
) -> Cohort:
    """Combine a site's list with the facts of its images.

    Args:
        entries: The list.
        facts: Facts of each image, in the same order.
        modality: The modality that the site declares.
        labels: The labels it may use; empty if not known.

    Raises:
        DataError: The lists differ in length.
    """
    if len(entries) != len(facts):
        raise DataError(f"{len(entries)} images are listed and {len(facts)} were examined: examine each listed image.")
    entries = spread_labels(entries)
    readable = [Sample(entry, one) for entry, one in zip(entries, facts, strict=True) if isinstance(one, ImageFacts)]
    samples = tuple(sample for sample in readable if not sample.facts.is_empty)
    gray = [sample for sample in samples if sample.facts.is_colour == modality.colour]
    negatives = find_negatives(gray)
    strangers = find_strangers(gray, negatives)
    return Cohort(
        entries=entries,
        modality=modality,
        labels=tuple(labels),
        faults=tuple(one for one in facts if isinstance(one, Fault)),
        empty=tuple(sample for sample in readable if sample.facts.is_empty),
        samples=samples,
        readable=tuple(sample.entry for sample in samples),
        pairs=find_pairs(samples),
        negatives=tuple(gray[i] for i in negatives if i not in set(strangers)),
        strangers=tuple(gray[i] for i in strangers),
    )
