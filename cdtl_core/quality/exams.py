"""Rules about exams with several images: one label, one patient and one study each, and complete series of slices."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import Hit, Rule, count_of
from cdtl_core.quality.sample import Entry, Sample

__all__ = ["RULES"]


def _exams(cohort: Cohort) -> dict[str, list[Entry]]:
    """Return the images of each exam that the list names."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in cohort.entries:
        if entry.exam:
            found[entry.exam].append(entry)
    return found


def _files(entries: Sequence[Entry]) -> tuple[Path, ...]:
    return tuple(entry.file for entry in entries)


def _unlabelled(cohort: Cohort) -> Iterator[Hit]:
    for exam, entries in _exams(cohort).items():
        if not any(entry.label for entry in entries):
            yield Hit(f"the exam '{exam}' has no label: none of its {count_of(len(entries), 'image', 'have')} one.",
                      _files(entries))  # fmt: skip


def _two_labels(cohort: Cohort) -> Iterator[Hit]:
    for exam, entries in _exams(cohort).items():
        labels = Counter(entry.meaning for entry in entries if entry.label)
        if len(labels) > 1:
            told = " and ".join(f"'{label}' ({count_of(count, 'image')})" for label, count in labels.most_common())
            yield Hit(f"the exam '{exam}' has {len(labels)} labels: {told}.", _files(entries))


def _two_patients(cohort: Cohort) -> Iterator[Hit]:
    for exam, entries in _exams(cohort).items():
        patients = {entry.patient for entry in entries if entry.patient}
        if len(patients) > 1:
            yield Hit(f"the exam '{exam}' has images of {len(patients)} patients.", _files(entries))


def _two_studies(cohort: Cohort) -> Iterator[Hit]:
    studies: dict[str, set[str]] = defaultdict(set)
    for sample in cohort.samples:
        if sample.entry.exam and sample.facts.tags and sample.facts.tags.study_uid:
            studies[sample.entry.exam].add(sample.facts.tags.study_uid)
    for exam, entries in _exams(cohort).items():
        if len(studies[exam]) > 1:
            yield Hit(f"the exam '{exam}' has images of {len(studies[exam])} DICOM studies.", _files(entries))


def _name(sample: Sample) -> str:
    return f"the exam '{sample.entry.exam}'" if sample.entry.exam else sample.file.name


def _missing(cohort: Cohort) -> Iterator[Hit]:
    for sample in cohort.samples:
        plan = sample.facts.plan
        if plan.missing:
            lacks = count_of(plan.missing, "slice")
            yield Hit(
                f"{_name(sample)} lacks {lacks} between its {plan.total}, which are {plan.spacing_mm:g} mm apart.",
                (sample.file,),
            )


def _plane(cohort: Cohort) -> Iterator[Hit]:
    planes: dict[str, list[Path]] = defaultdict(list)
    for sample in cohort.samples:
        if sample.facts.plan.plane:
            planes[sample.facts.plan.plane].append(sample.file)
    usual = max(planes, key=lambda plane: len(planes[plane]), default="")
    for plane, files in planes.items():
        if plane != usual:
            yield Hit(
                f"{count_of(len(files), 'volume', 'are')} {plane}, {len(planes[usual])} are {usual}.", tuple(files)
            )


def _left_out(cohort: Cohort) -> Iterator[Hit]:
    for sample in cohort.samples:
        names = sample.facts.plan.left_out
        if names:
            yield Hit(
                f"{_name(sample)}: {count_of(len(names), 'file')} in its folder "
                f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) will not be read.",
                (sample.file,),
            )


def _one_by_one(cohort: Cohort) -> Iterator[Hit]:
    series: dict[str, list[Path]] = defaultdict(list)
    for sample in cohort.samples:
        tags = sample.facts.tags
        if tags and tags.is_slice and tags.series_uid and sample.facts.plan.kind == "image":
            series[tags.series_uid].append(sample.file)
    several = [files for files in series.values() if len(files) > 1]
    if several:
        files = tuple(file for one in several for file in one)
        yield Hit(f"{len(files)} slices of {len(several)} DICOM series are listed one by one.", files)


RULES = (
    Rule(
        "exam-unlabelled",
        "error",
        "None of an exam's images has a label.",
        "Write the exam's label on one of its images or on all, or remove the exam from the list.",
        _unlabelled,
    ),
    Rule(
        "exam-two-labels",
        "error",
        "Images of one exam have different labels.",
        "Write one label on all of them. Parts with labels of their own, such as left and right, need an exam_id each.",
        _two_labels,
    ),
    Rule(
        "exam-two-patients",
        "error",
        "Images of two patients have one exam_id: two exams stand under one id.",
        "Give each exam an id of its own, for example with the patient's id in front.",
        _two_patients,
    ),
    Rule(
        "exam-two-studies",
        "error",
        "DICOM files of one exam come from two studies: two exams stand under one id, or a prior is among them.",
        "Give each study an exam_id of its own, or remove the one that the label does not belong to.",
        _two_studies,
    ),
    Rule(
        "missing-slices",
        "error",
        "Between two neighbouring slices of a series the distance is over 1.5 times the usual one.",
        "Export the series again; what should be found may be on a slice that is missing.",
        _missing,
    ),
    Rule(
        "orientation",
        "warning",
        "The slices of a volume lie in another plane of the body than those of most volumes.",
        "Use series of one plane, or waive it if both are meant; a plane that goes with a label is learnt.",
        _plane,
    ),
    Rule(
        "series-left-out",
        "warning",
        "The folder of a series holds files that are no DICOM files; they are not read.",
        "Move them out of the folder; list images of other formats in rows of their own, with the same exam_id.",
        _left_out,
    ),
    Rule(
        "slices-one-by-one",
        "warning",
        "Slices of a DICOM series are listed as single files, so they are in no order and have no neighbours.",
        "List the folder of each series: cdtl data make-manifest --series. Waive it if single slices are meant.",
        _one_by_one,
    ),
)
