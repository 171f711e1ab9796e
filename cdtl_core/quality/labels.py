"""Rules about labels: spelling, agreement with folder names, enough patients per class."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import Hit, Rule, count_of
from cdtl_core.quality.sample import Entry

__all__ = ["RULES"]


OPPOSITES = ("a", "ab", "an", "dis", "im", "in", "non", "un")  # normal and abnormal are two words
LONG = 8  # from this length on, two typing errors are still the same word


def is_typo(written: str, meant: str) -> bool:
    """Whether `written` is `meant` up to case, spaces, or a typing error or two; never a digit or prefix un-."""
    ours, theirs = (" ".join(word.casefold().replace("_", " ").split()) for word in (written, meant))
    if ours == theirs:
        return written != meant
    if any(ours == prefix + theirs or theirs == prefix + ours for prefix in OPPOSITES):
        return False
    if [c for c in ours if c.isdigit()] != [c for c in theirs if c.isdigit()] or min(len(ours), len(theirs)) < 4:
        return False
    return _distance(ours, theirs) <= (2 if min(len(ours), len(theirs)) >= LONG else 1)


def _distance(ours: str, theirs: str) -> int:
    """Return the number of insertions, deletions, substitutions and swaps of neighbours between two words."""
    rows = [list(range(len(theirs) + 1))]
    for i, letter in enumerate(ours, start=1):
        row = [i]
        for j, other in enumerate(theirs, start=1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == theirs[j - 2] and ours[i - 2] == other:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


RARE = 0.1  # a typo is rarer by this factor than the intended label
LEAST_PATIENTS = 3  # train, validation, test
FEW_PATIENTS = 10
DENIALS = frozenset({"no", "non", "not", "vs"})


def _unknown(cohort: Cohort) -> Iterator[Hit]:
    groups = _by_label([entry for entry in cohort.entries if entry.label or not entry.exam])
    if unlabelled := groups.pop("", ()):
        yield Hit(f"{count_of(len(unlabelled), 'image', 'have')} no label.", unlabelled)
    for label, files in groups.items():
        if cohort.labels and label not in cohort.labels:
            meant = [known for known in cohort.labels if is_typo(label, known)]
            hint = f": did you mean '{meant[0]}'?" if meant else "."
            known = ", ".join(cohort.labels)
            yield Hit(
                f"{count_of(len(files), 'image', 'have')} the label '{label}', the site's labels are {known}{hint}",
                files,
            )


def _typo(cohort: Cohort) -> Iterator[Hit]:
    if cohort.labels:
        return
    groups = _by_label(cohort.entries)
    for label, files in groups.items():
        meant = [other for other in groups if is_typo(label, other) and len(files) <= RARE * len(groups[other])]
        if meant:
            found = count_of(len(files), "image", "have")
            yield Hit(f"{found} the label '{label}', {len(groups[meant[0]])} have '{meant[0]}'.", files)


def _contradicted(cohort: Cohort) -> Iterator[Hit]:
    known = set(cohort.labels) or {entry.label for entry in cohort.entries if entry.label}
    names = {_words(label): label for label in known}
    if not cohort.entries:
        return
    root = Path(os.path.commonpath([entry.file.absolute().parent for entry in cohort.entries]))
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for entry in cohort.entries:
        named = _named(entry.file.absolute().relative_to(root), names)
        if named and entry.label and named != entry.label:
            found[named, entry.label].append(entry.file)
    for (named, label), files in sorted(found.items()):
        yield Hit(
            f"{count_of(len(files), 'image', 'are')} filed or named as '{named}' and labelled '{label}'.", tuple(files)
        )


def _named(path: Path, names: Mapping[str, str]) -> str:
    """Return the label named by the nearest folder or else by the file; empty if there is none or several."""
    for folder in reversed(path.parts[:-1]):
        if _words(folder) in names:
            return names[_words(folder)]
    words = _words(path.stem).split()
    told = [label for label in names if label and _contains(words, label.split())]
    return names[told[0]] if len(told) == 1 and not DENIALS & set(words) else ""


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", text.casefold()))


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(list(words[i : i + len(part)]) == list(part) for i in range(len(words)))


def _small_class(cohort: Cohort) -> Iterator[Hit]:
    for label, (patients, files) in _owners(cohort).items():
        if len(patients) < LEAST_PATIENTS:
            yield Hit(
                f"the class '{label}' has {count_of(len(patients), 'patient')}, a split needs {LEAST_PATIENTS}.", files
            )


def _few_patients(cohort: Cohort) -> Iterator[Hit]:
    for label, (patients, _) in _owners(cohort).items():
        if LEAST_PATIENTS <= len(patients) < FEW_PATIENTS:
            yield Hit(f"the class '{label}' has {len(patients)} patients: test figures are unreliable.")


def _by_label(entries: Sequence[Entry]) -> dict[str, tuple[Path, ...]]:
    """Return the files by label, the most frequent label first."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for entry in entries:
        groups[entry.label].append(entry.file)
    return {label: tuple(groups[label]) for label in sorted(groups, key=lambda label: -len(groups[label]))}


def _owners(cohort: Cohort) -> dict[str, tuple[set[str], tuple[Path, ...]]]:
    """Return patients and files by label, for readable images; labels unknown to the site belong to another rule."""
    owners: dict[str, set[str]] = {label: set() for label in cohort.labels}
    files: dict[str, list[Path]] = defaultdict(list)
    for entry in cohort.readable:
        if entry.label and (not cohort.labels or entry.label in owners):
            owners.setdefault(entry.label, set()).add(entry.owner)
            files[entry.label].append(entry.file)
    return {label: (owners[label], tuple(files[label])) for label in owners}


RULES = (
    Rule(
        "label-unknown",
        "error",
        "A label is not mapped to the task, or is empty.",
        "Correct the label in the list, or map it: --map of cdtl site init, or data.label_map (empty: left out).",
        _unknown,
    ),
    Rule(
        "label-typo",
        "warning",
        "If no labels are given: a rare label differs from a frequent one by case, spaces or one or two letters.",
        "Write both in the same way in the list.",
        _typo,
    ),
    Rule(
        "label-contradicted",
        "error",
        "The folder or the name of a file has one label, the list another.",
        "Check the source; correct the list or move the file.",
        _contradicted,
    ),
    Rule(
        "small-class",
        "error",
        "A class has fewer than 3 patients with readable images: train, validation and test cannot all have one.",
        "Add patients, or map the class onto another or leave it out in data.label_map.",
        _small_class,
    ),
    Rule(
        "few-patients",
        "warning",
        "A class has fewer than 10 patients: no interval can be given for its test figures.",
        "Add patients; treat this site's test figures as anecdotes.",
        _few_patients,
    ),
)
