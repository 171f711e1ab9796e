"""A site's images, labels and patients, split and ready to train on."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.config import BoxConfig, Unit
from cdtl_core.data.frame import Frame, Slices
from cdtl_core.data.manifest import Case
from cdtl_core.data.pixels import Ints, Pixels, content_id, load_pixels
from cdtl_core.data.split import SPLITS, Split

__all__ = ["Cohort", "Fold", "build_cohort", "pixel_statistics"]


@dataclass(frozen=True)
class Fold:
    """The units of one split, U, with their images, N: a unit is what has a label (`task.unit`).

    Attributes:
        pixels: The whole cohort's images, N C H W uint8, or what a frozen backbone makes of every view of each,
            N V D float16; `rows` picks this fold's.
        rows: Indices into `pixels` of the images of all units, one unit after the other, N.
        labels: Index into the task's labels, U.
        patients: Number of the patient within the cohort, U.
        identities: A number of the patient that does not change when others come or go, U: what her random draws
            depend on under differential privacy. If not given, `patients`, for cohorts that do not change.
        lengths: Number of images of each unit, U. If not given, each has one.
    """

    pixels: Pixels
    rows: Ints
    labels: Ints
    patients: Ints
    identities: Ints = field(default=None)  # type: ignore[arg-type]  # never None after __post_init__
    lengths: Ints = field(default=None)  # type: ignore[arg-type]  # likewise

    def __post_init__(self) -> None:
        if self.identities is None:
            object.__setattr__(self, "identities", self.patients)
        if self.lengths is None:
            object.__setattr__(self, "lengths", np.ones(len(self.labels), np.int64))

    @functools.cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Names of the images by their content, N. They are found once: the images must not change."""
        return tuple(content_id(self.pixels[row]) for row in self.rows)

    @functools.cached_property
    def starts(self) -> Ints:
        """Place in `rows` of each unit's first image, U."""
        return np.asarray(np.cumsum(self.lengths) - self.lengths, np.int64)

    def places(self, units: Ints) -> Ints:
        """Return the places in `rows` of all images of these units, one unit after the other."""
        lengths = self.lengths[units]
        ends = np.cumsum(lengths)
        return np.asarray(np.arange(lengths.sum()) + np.repeat(self.starts[units] - ends + lengths, lengths), np.int64)

    def of_images(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a value of each unit, U, for each of its images, N."""
        return np.repeat(values, self.lengths)

    def where(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Fold":
        """Return the fold with the chosen units only, by index or by mask."""
        units = np.flatnonzero(chosen) if chosen.dtype == bool else np.asarray(chosen, np.int64)
        parts = (part[units] for part in (self.labels, self.patients, self.identities, self.lengths))
        return Fold(self.pixels, self.rows[self.places(units)], *parts)

    def thinned(self, most: int) -> "Fold":
        """Return the fold with at most this number of images of each unit, evenly spaced."""
        if self.lengths.max(initial=0) <= most:
            return self
        lengths = np.minimum(self.lengths, most)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        spread = (2 * within + 1) * np.repeat(self.lengths, lengths) // np.repeat(2 * lengths, lengths)
        return replace(self, rows=self.rows[np.repeat(self.starts, lengths) + spread], lengths=lengths)

    @property
    def holds_features(self) -> bool:
        """Whether `pixels` holds features instead of images."""
        return bool(self.pixels.dtype == np.float16)

    @property
    def has_several(self) -> bool:
        """Whether a unit has several images."""
        return len(self.rows) != len(self.labels)

    @property
    def num_units(self) -> int:
        """Number of units in this fold."""
        return len(self.labels)

    @property
    def num_images(self) -> int:
        """Number of images in this fold."""
        return len(self.rows)

    @property
    def num_patients(self) -> int:
        """Number of patients in this fold."""
        return len(np.unique(self.patients))


@dataclass(frozen=True)
class Cohort:
    """All images of a site, by split.

    Attributes:
        labels: Its labels, in order.
        folds: Split to its units.
        files: Name of each image's file, in the order of the folds' pixels.
        bits: Most bits per sample of its files.
        box: How lesions were cut out of the images; None: they are whole.
        units: Name of each image's unit, in the same order: its exam, or its file. Empty: `files`.
        slices: Which images of files with several are used, as in `data.slices`.
        tile_um: Micrometres per pixel of the tiles of whole slides.
    """

    labels: tuple[str, ...]
    folds: Mapping[Split, Fold]
    files: tuple[str, ...]
    bits: int
    box: BoxConfig | None = None
    units: tuple[str, ...] = ()
    slices: str | int = "all"
    tile_um: float = 1.0

    @property
    def channels(self) -> int:
        """Number of channels: 1 if all images are gray, else 3."""
        return int(self.folds["train"].pixels.shape[1])

    @property
    def num_patients(self) -> int:
        """Number of patients over all splits."""
        return sum(fold.num_patients for fold in self.folds.values())

    def names(self, fold: Fold) -> tuple[str, ...]:
        """Return the names of a fold's units, U."""
        names = self.units or self.files
        return tuple(names[row] for row in fold.rows[fold.starts])


def build_cohort(
    cases: Sequence[Case],
    split: Mapping[str, Split],
    *,
    labels: Sequence[str],
    size: int,
    cache: Path,
    frame: Frame = "middle",
    strict: bool = False,
    box: BoxConfig | None = None,
    slices: str | int = "all",
    tile_um: float = 1.0,
    unit: Unit = "image",
) -> Cohort:
    """Decode images (once, into `cache`) and divide them by split.

    Args:
        cases: All images of the site.
        split: Patient to split.
        labels: The task's labels.
        size: Side of the square images in pixels.
        cache: Folder for decoded images.
        frame: Which frame of a file with several: ``first``, ``middle``, ``last`` or an index from 0.
        strict: Compare file contents instead of size and time before decoded images are reused.
        box: How lesions are cut out; None: whole images.
        slices: Which images of a file with several are used, as in `data.slices`, if `unit` is not image.
        tile_um: Micrometres per pixel of a whole slide's tiles; 0: its finest level.
        unit: What has a label: with ``image`` each file gives one image.

    Raises:
        DataError: An image is missing or cannot be decoded.
    """
    files, squares = [case.file for case in cases], [case.square for case in cases]
    stored = load_pixels(
        files,
        size=size,
        folder=cache,
        squares=squares,
        frame=frame,
        strict=strict,
        slices=_chosen(unit, slices),
        tile_um=tile_um,
    )
    number = {patient: i for i, patient in enumerate(dict.fromkeys(case.patient for case in cases))}
    units = _units_of(cases, stored.counts)
    label = np.array([case.label for case, _ in units], np.int64)
    patient = np.array([number[case.patient] for case, _ in units], np.int64)
    identity = np.array([_identity(case.patient) for case, _ in units], np.int64)
    where = np.array([split[case.patient] for case, _ in units])
    rows, lengths = [rows for _, rows in units], np.array([len(rows) for _, rows in units], np.int64)
    whole = Fold(stored.array, np.concatenate(rows), label, patient, identity, lengths)
    folds = {name: whole.where(where == name) for name in SPLITS}
    names = np.empty(whole.num_images, np.int64)
    names[whole.rows] = whole.of_images(np.arange(len(units)))
    return Cohort(
        tuple(labels),
        folds,
        tuple(case.file.name for case, count in zip(cases, stored.counts, strict=True) for _ in range(count)),
        stored.bits,
        box,
        tuple(units[index][0].name for index in names.tolist()),
        slices,
        tile_um,
    )


def _chosen(unit: Unit, slices: str | int) -> Slices | None:
    """Return which images of a file are used; None: one, by `frame`."""
    return None if unit == "image" else Slices.parse(slices)


def _units_of(cases: Sequence[Case], counts: Ints) -> list[tuple[Case, Ints]]:
    """Return the case of each unit's first file and the rows of all its images, in the order of the first files.

    Args:
        cases: All files.
        counts: Number of images of each.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for index, case in enumerate(cases):
        members.setdefault(case.key, []).append(index)
    ends = np.cumsum(counts)
    rows = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [(cases[found[0]], np.concatenate([rows[index] for index in found])) for found in members.values()]


def _identity(patient: str) -> int:
    """Return 64 bits that identify a patient regardless of the other patients; the number stays in memory."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], signed=True)


def pixel_statistics(fold: Fold) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels of a fold, in [0, 255], with one image in memory at a time."""
    images = [fold.pixels[row] for row in fold.rows]
    mean = float(np.mean([image.mean() for image in images]))
    square = float(np.mean([(image.astype(np.float64) ** 2).mean() for image in images]))
    return mean, float(np.sqrt(max(square - mean**2, 0.0)))
