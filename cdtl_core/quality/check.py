"""Runs all rules over one cohort and collects the findings."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdtl_core.config.modalities import Modality
from cdtl_core.data.facts import Fault, ImageFacts
from cdtl_core.errors import ConfigError
from cdtl_core.quality import duplicates, exams, files, labels, look, patients, shortcut
from cdtl_core.quality.cohort import Cohort, assemble, unread
from cdtl_core.quality.limits import limits_of
from cdtl_core.quality.rule import Finding, Rule
from cdtl_core.quality.sample import Entry

__all__ = ["RULES", "ClassCount", "CohortCheck", "Counts", "as_dict", "check_entries", "check_list", "rules_table"]

RULES: tuple[Rule, ...] = (
    *files.RULES,
    *labels.RULES,
    *patients.RULES,
    *exams.RULES,
    *duplicates.RULES,
    *look.RULES,
    *shortcut.RULES,
)


@dataclass(frozen=True)
class ClassCount:
    """Number of images and patients with one label."""

    label: str
    images: int
    patients: int


@dataclass(frozen=True)
class Counts:
    """Composition of the cohort.

    Attributes:
        images: Listed images.
        readable: Images that can be decoded and are not empty; all counts below refer to these.
        patients: Patients; an image without a patient counts as one.
        classes: By label, most images first.
        sizes: Images by ``width x height``, most first.
        bits: Images by bits per sample.
        formats: Images by file format.
        colour: Images with colour.
        duplicate_pairs: Pairs that show the same.
        opposite_pairs: Duplicate pairs with different labels.
        exams: Exams that the list names.
        volumes: Files and folders that hold several slices or tiles.
        slices: Images that they hold.
        spacing_mm: Least, median and largest distance of neighbouring slices; empty: no volume.
    """

    images: int
    readable: int
    patients: int
    classes: tuple[ClassCount, ...]
    sizes: Mapping[str, int]
    bits: Mapping[int, int]
    formats: Mapping[str, int]
    colour: int
    duplicate_pairs: int
    opposite_pairs: int
    exams: int = 0
    volumes: int = 0
    slices: int = 0
    spacing_mm: tuple[float, ...] = ()


@dataclass(frozen=True)
class CohortCheck:
    """Findings about a cohort of one declared modality, and what the check could not judge, a phrase each."""

    modality: str
    counts: Counts
    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether there is an error that the site has not waived."""
        return any(finding.severity == "error" and not finding.waived for finding in self.findings)


def check_entries(
    entries: Sequence[Entry],
    facts: Sequence[ImageFacts | Fault],
    *,
    modality: Modality,
    labels: Sequence[str] = (),
    switched_off: Mapping[str, str] | None = None,
) -> CohortCheck:
    """Check a site's list of images against the facts that `examine_all` found in the files.

    Args:
        entries: The list, as written.
        facts: Facts of each entry's file, in the same order.
        modality: The modality that the site declares.
        labels: The labels that may occur in the list (local names); empty if not known.
        switched_off: Rule id to the reason. Findings of these rules are marked as waived and do not count as errors.

    Raises:
        ConfigError: `switched_off` names an unknown rule, or gives no reason.
        DataError: `facts` and `entries` do not match.
    """
    waivers = dict(switched_off or {})
    _check_waivers(waivers)
    cohort = assemble(entries, facts, modality=modality, labels=labels)
    found = [finding for rule in RULES for finding in _apply(rule, cohort, waivers.get(rule.id, ""))]
    found.sort(key=lambda finding: (bool(finding.waived), finding.severity != "error"))
    return CohortCheck(modality.name, _count(cohort), tuple(found), limits_of(cohort))


def check_list(entries: Sequence[Entry]) -> tuple[Finding, ...]:
    """Return the errors of a list that are known before an image is read: labels, patients, exams and splits."""
    cohort = unread(entries)
    rules = [rule for rule in (*labels.RULES, *patients.RULES, *exams.RULES) if rule.severity == "error"]
    return tuple(finding for rule in rules for finding in _apply(rule, cohort, ""))


def as_dict(check: CohortCheck) -> dict[str, Any]:
    """Return the check as plain lists, texts and numbers, for JSON."""
    plain = dataclasses.asdict(check)
    for finding in plain["findings"]:
        finding["files"] = [str(file) for file in finding["files"]]
    plain["counts"]["bits"] = {str(bits): count for bits, count in check.counts.bits.items()}
    return {"schema_version": 1, **plain, "has_errors": check.has_errors}


def rules_table() -> str:
    """Return all rules as a Markdown table, for docs/checks.md."""
    rows = [f"| `{rule.id}` | {rule.severity} | {rule.what} | {rule.advice} |" for rule in RULES]
    return "\n".join(("| rule | severity | what | what to do |", "|---|---|---|---|", *rows))


def _check_waivers(waivers: Mapping[str, str]) -> None:
    known = [rule.id for rule in RULES]
    for rule, reason in waivers.items():
        if rule not in known:
            raise ConfigError(f"the check has no rule '{rule}': use one of {', '.join(known)}.")
        if not reason.strip():
            raise ConfigError(f"the rule '{rule}' is switched off without a reason: give a reason.")


def _apply(rule: Rule, cohort: Cohort, reason: str) -> list[Finding]:
    return [
        Finding(rule.id, rule.severity, hit.message, hit.advice or rule.advice, hit.files, reason)
        for hit in rule.find(cohort)
    ]


def _count(cohort: Cohort) -> Counts:
    samples = cohort.samples
    images = Counter(sample.entry.label for sample in samples)
    owners = {(sample.entry.label, sample.owner) for sample in samples}
    by_label = Counter(label for label, _ in owners)
    held = [sample.facts.plan for sample in samples if sample.facts.plan.total > 1]
    spacings = sorted(plan.spacing_mm for plan in held if plan.spacing_mm)
    opposite = [p for p in cohort.pairs if samples[p.first].entry.label != samples[p.second].entry.label]
    return Counts(
        images=len(cohort.entries),
        readable=len(samples),
        patients=len({sample.owner for sample in samples}),
        classes=tuple(ClassCount(label, count, by_label[label]) for label, count in images.most_common()),
        sizes=dict(Counter(f"{s.facts.width} x {s.facts.height}" for s in samples).most_common()),
        bits=dict(Counter(sample.facts.bits for sample in samples).most_common()),
        formats=dict(Counter(sample.facts.format for sample in samples).most_common()),
        colour=sum(sample.facts.is_colour for sample in samples),
        duplicate_pairs=len(cohort.pairs),
        opposite_pairs=len(opposite),
        exams=len({entry.exam for entry in cohort.entries} - {""}),
        volumes=len(held),
        slices=sum(plan.total for plan in held),
        spacing_mm=(spacings[0], spacings[len(spacings) // 2], spacings[-1]) if spacings else (),
    )
