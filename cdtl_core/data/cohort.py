"""A site's images, labels and patients, split and ready to train on."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.config import BoxConfig
from cdtl_core.data.frame import Frame
from cdtl_core.data.manifest import Case
from cdtl_core.data.pixels import Pixels, content_id, load_pixels
from cdtl_core.data.split import SPLITS, Split

__all__ = ["Cohort", "Fold", "build_cohort", "pixel_statistics"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """The images of one split.

    Attributes:
        pixels: The whole cohort's images, N C H W uint8, or what a frozen backbone makes of every view of each,
            N V D float16; `rows` picks this fold's.
        rows: Indices into `pixels`, B.
        labels: Index into the task's labels, B.
        patients: Number of the patient within the cohort, B.
        identities: A number of the patient that does not change when others come or go, B: what her random draws
            depend on under differential privacy. If not given, `patients`, for cohorts that do not change.
    """

    pixels: Pixels
    rows: Ints
    labels: Ints
    patients: Ints
    identities: Ints = field(default=None)  # type: ignore[arg-type]  # never None after __post_init__

    def __post_init__(self) -> None:
        if self.identities is None:
            object.__setattr__(self, "identities", self.patients)

    @functools.cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Names of the images by their content, B. They are found once: the images must not change."""
        return tuple(content_id(self.pixels[row]) for row in self.rows)

    def where(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Fold":
        """Return the fold with the chosen images only, by index or by mask."""
        parts = (self.rows, self.labels, self.patients, self.identities)
        return Fold(self.pixels, *(part[chosen] for part in parts))

    @property
    def holds_features(self) -> bool:
        """Whether `pixels` holds features instead of images."""
        return bool(self.pixels.dtype == np.float16)

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
    """All images of a site, by split; its labels in order, file names, and most bits per sample of its files.

    `box` says how lesions were cut out of them; None: they are whole.
    """

    labels: tuple[str, ...]
    folds: Mapping[Split, Fold]
    files: tuple[str, ...]
    bits: int
    box: BoxConfig | None = None

    @property
    def channels(self) -> int:
        """Number of channels: 1 if all images are gray, else 3."""
        return int(self.folds["train"].pixels.shape[1])

    @property
    def num_patients(self) -> int:
        """Number of patients over all splits."""
        return sum(fold.num_patients for fold in self.folds.values())


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

    Raises:
        DataError: An image is missing or cannot be decoded.
    """
    files, squares = [case.file for case in cases], [case.square for case in cases]
    stored = load_pixels(files, size=size, folder=cache, squares=squares, frame=frame, strict=strict)
    number = {patient: i for i, patient in enumerate(dict.fromkeys(case.patient for case in cases))}
    label = np.array([case.label for case in cases], np.int64)
    patient = np.array([number[case.patient] for case in cases], np.int64)
    identity = np.array([_identity(case.patient) for case in cases], np.int64)
    where = np.array([split[case.patient] for case in cases])
    whole = Fold(stored.array, np.arange(len(cases)), label, patient, identity)
    folds = {name: whole.where(where == name) for name in SPLITS}
    return Cohort(tuple(labels), folds, tuple(case.file.name for case in cases), stored.bits, box)


def _identity(patient: str) -> int:
    """Return 64 bits that identify a patient regardless of the other patients; the number stays in memory."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], signed=True)


def pixel_statistics(fold: Fold) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels of a fold, in [0, 255], with one image in memory at a time."""
    images = [fold.pixels[row] for row in fold.rows]
    mean = float(np.mean([image.mean() for image in images]))
    square = float(np.mean([(image.astype(np.float64) ** 2).mean() for image in images]))
    return mean, float(np.sqrt(max(square - mean**2, 0.0)))
