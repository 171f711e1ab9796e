"""Probabilities of a model folder for any images or exams, and whether these are like those it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.inference.asked import asked_for, grouped, with_boxes
from cdtl_core.inference.likeness import Likeness, load_likeness
from cdtl_core.inference.model_folder import load_model
from cdtl_core.inference.scored import Unreadable, score_exams, score_images
from cdtl_core.metrics.calibration import rescale

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """Predictions for N units: images, exams or patients, whatever had a label in the model's run.

    Attributes:
        labels: The model's labels, K.
        probabilities: N K.
        kind: ``calibrated`` on validation patients, or ``raw``.
        files: The images that could be read, N; of an exam its first, or the folder of its series.
        unlike: For each why it is unlike the training images, N; empty if it is like them.
        not_judged: What of this cannot be judged with this model, in a sentence; empty if all can.
        positive: The positive label.
        weights_sha256: Hash of the model, which its card names too.
        unit: What has a probability: ``image``, ``exam`` or ``patient``.
        exams: Name of each exam, N: its folder, its file, or its id in a manifest; empty for a model of images.
        image_counts: Number of images behind each prediction, N.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    kind: str
    files: tuple[Path, ...]
    unlike: tuple[tuple[str, ...], ...]
    not_judged: str
    positive: str
    weights_sha256: str
    unit: str = "image"
    exams: tuple[str, ...] = ()
    image_counts: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each image or exam, N."""
        return self.exams or tuple(map(str, self.files))


def predict(
    folder: Path | str,
    images: Sequence[Path | str],
    boxes: Sequence[str] = (),
    *,
    exams: Sequence[str] = (),
    unreadable: Unreadable | None = None,
) -> Prediction:
    """Probabilities that a trained model gives to images or exams. Research use only, not a medical device.

    Args:
        folder: A model folder, for example ``runs/demo/sites/north``.
        images: Files (PNG, JPEG, TIFF, BMP, DICOM and volumes), folders, patterns such as ``*.png``, and manifests. For
            a model of exams each subfolder of a folder is an exam, as is a file, or all rows of a manifest with one
            ``exam_id``.
        boxes: The lesion's box in each image, ``x,y,width,height`` in pixels, for a model of cut-out lesions. A
            manifest has them in a column.
        exams: Name of each file's exam, for a model of exams or patients; files with one name are scored together.
            Empty: as above.
        unreadable: Gets each image or exam that cannot be read, which is then left out. None: the first one is an
            error.

    Returns:
        The model's labels K, a probability for each image or exam and label, N K, whether they are calibrated, and why
        one is unlike those that the model was trained on.

    Raises:
        ModelError: The folder holds no model.
        DataError: An image cannot be read, or the number of boxes is wrong.

    Examples:
        >>> from cdtl_core import predict
        >>> predict("runs/demo/sites/north", ["lesion.png"]).probabilities.shape
        (1, 2)
    """
    folder = Path(folder)
    model, note = load_model(folder)
    likeness = load_likeness(folder, note.weights_sha256)
    given = [Path(image) for image in images]
    asked = grouped(given, exams, note.unit) if exams else asked_for(given, note.unit)
    asked = with_boxes(asked, note.box, boxes, unit=note.unit)
    compute = score_images if note.unit == "image" else score_exams
    found = compute(model, note, asked, likeness, unreadable)
    log_probabilities = np.concatenate([one.log_probabilities for one in found])
    if note.temperature is not None:
        log_probabilities = rescale(log_probabilities, note.temperature)
    return Prediction(
        labels=note.labels,
        probabilities=np.exp(log_probabilities),
        kind="raw" if note.temperature is None else "calibrated",
        files=tuple(one.asked.files[0] for one in found),
        unlike=tuple(one.unlike for one in found),
        not_judged=_not_judged(likeness),
        positive=note.positive,
        weights_sha256=note.weights_sha256,
        unit=note.unit,
        exams=() if note.unit == "image" else tuple(one.asked.name for one in found),
        image_counts=tuple(one.count for one in found),
    )


def _not_judged(likeness: Likeness | None) -> str:
    if likeness is None:
        return (
            "Whether an image is like the training images cannot be judged: this model was stored without their "
            "statistics, by an earlier version of cdtl, or they were removed."
        )
    if likeness.features is None:
        return (
            f"Whether an image is like the training images is judged by its colour and DICOM header only: "
            f"{likeness.validation} validation images are too few for more."
        )
    return ""
