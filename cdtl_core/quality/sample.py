"""A readable image of a cohort: its entry in the site's list and the facts of its file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.data.facts import ImageFacts

__all__ = ["Entry", "Floats", "Sample", "leading_axes", "spread_labels", "standard_thumbnails"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One line of a site's list, as written, before any mapping or check.

    `task_label` is what the site's label map makes of the label; empty: the label stands for itself.
    """

    file: Path
    label: str
    patient: str = ""
    split: str = ""
    exam: str = ""
    task_label: str = ""

    @property
    def meaning(self) -> str:
        """The label of the task."""
        return self.task_label or self.label

    @property
    def owner(self) -> str:
        """The patient; an image without one is its own group."""
        return self.patient or f"file:{self.file}"


def spread_labels(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the entries with the label of their exam where they have none; an exam with several labels keeps gaps."""
    labelled: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        if entry.exam and entry.label:
            labelled.setdefault(entry.exam, {}).setdefault(entry.meaning, entry)
    told = {exam: next(iter(found.values())) for exam, found in labelled.items() if len(found) == 1}
    return tuple(
        replace(entry, label=told[entry.exam].label, task_label=told[entry.exam].task_label)
        if not entry.label and entry.exam in told
        else entry
        for entry in entries
    )


@dataclass(frozen=True, eq=False)
class Sample:
    """An image that could be read."""

    entry: Entry
    facts: ImageFacts

    @property
    def file(self) -> Path:
        """The file."""
        return self.entry.file

    @property
    def owner(self) -> str:
        """The patient; an image without one is its own group."""
        return self.entry.owner


def standard_thumbnails(samples: Sequence[Sample]) -> Floats:
    """Return thumbnails as rows (N 1024) of mean 0 and length 1, so that a dot product is a correlation."""
    if not samples:
        return np.zeros((0, 1), np.float32)
    rows = np.stack([sample.facts.thumbnail for sample in samples]).reshape(len(samples), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    standard: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return standard


def leading_axes(blocks: Iterable[Floats], count: int) -> Floats:
    """Return the `count` orthonormal axes (D K) along which the rows (N D, in blocks) vary most, strongest first."""
    left = iter(blocks)
    begun = list(islice(left, 2))
    if len(begun) == 1 and count <= len(begun[0]) < begun[0].shape[1]:  # few rows: the same axes in a tenth of the time
        return np.ascontiguousarray(np.linalg.svd(begun[0], full_matrices=False)[2][:count].T, np.float32)
    from scipy.linalg import eigh

    gram = np.sum([rows.T @ rows for rows in chain(begun, left)], axis=0)
    size = len(gram)
    _, axes = eigh(gram, subset_by_index=(size - count, size - 1))
    return np.ascontiguousarray(axes[:, ::-1], np.float32)
