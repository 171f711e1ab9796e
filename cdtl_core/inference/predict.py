"""Probabilities of a model folder for any images, and whether these are like the images it was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import BoxConfig
from cdtl_core.config.modalities import MODALITIES
from cdtl_core.data.box import cut, square_of
from cdtl_core.data.cohort import Fold
from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.decode.read import fit_square, read_picture
from cdtl_core.errors import DataError
from cdtl_core.inference.likeness import Likeness, load_likeness
from cdtl_core.inference.model_folder import ModelNote, PooledNetwork, load_model
from cdtl_core.metrics.calibration import rescale
from cdtl_core.models.model import Classifier
from cdtl_core.system.progress import report
from cdtl_core.training.device import choose_device
from cdtl_core.training.scoring import embed

__all__ = ["Prediction", "predict"]

_BOX = "--box"


@dataclass(frozen=True)
class Prediction:
    """Predictions for N images.

    Attributes:
        labels: The model's labels, K.
        probabilities: N K.
        kind: ``calibrated`` on validation patients, or ``raw``.
        files: The images that could be read, N.
        unlike: For each image why it is unlike the training images, N; empty if it is like them.
        not_judged: What of this cannot be judged with this model, in a sentence; empty if all can.
        positive: The positive label.
        weights_sha256: Hash of the model, which its card names too.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    kind: str
    files: tuple[Path, ...]
    unlike: tuple[tuple[str, ...], ...]
    not_judged: str
    positive: str
    weights_sha256: str


def predict(
    folder: Path | str,
    images: Sequence[Path | str],
    boxes: Sequence[str] = (),
    *,
    unreadable: Callable[[Path, DataError], None] | None = None,
) -> Prediction:
    """Probabilities that a trained model gives to images. Research use only, not a medical device.

    Args:
        folder: A model folder, for example ``runs/demo/sites/north``.
        images: N files: PNG, JPEG, TIFF, BMP or DICOM.
        boxes: The lesion's box in each image, ``x,y,width,height`` in pixels, for a model of cut-out lesions.
        unreadable: Gets each image that cannot be read, which is then left out. None: the first one is an error.

    Returns:
        The model's labels K, a probability for each image and label, N K, whether they are calibrated, and why an image
        is unlike those that the model was trained on.

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
    if len(boxes) != (len(images) if note.box else 0):
        wanted = f"give --box x,y,width,height for each of {len(images)} images" if note.box else "leave out --box"
        looked = "lesions cut out by their boxes" if note.box else "whole images"
        raise DataError(f"the model of {folder} uses {looked}, but {len(boxes)} boxes are given: {wanted}.")
    seen = _read(images, boxes, note, unreadable)
    features, log_probabilities = _compute(model, [one.square for one in seen])
    if note.temperature is not None:
        log_probabilities = rescale(log_probabilities, note.temperature)
    return Prediction(
        labels=note.labels,
        probabilities=np.exp(log_probabilities),
        kind="raw" if note.temperature is None else "calibrated",
        files=tuple(one.file for one in seen),
        unlike=tuple(
            (*one.other, *(likeness.reasons(one.square, row) if likeness else ()))
            for one, row in zip(seen, features, strict=True)
        ),
        not_judged=_not_judged(likeness),
        positive=note.positive,
        weights_sha256=note.weights_sha256,
    )


@dataclass(frozen=True)
class _Seen:
    """An image as the model sees it, C H W, and what its DICOM header says against it."""

    file: Path
    square: npt.NDArray[np.uint8]
    other: tuple[str, ...]


def _read(
    images: Sequence[Path | str],
    boxes: Sequence[str],
    note: ModelNote,
    unreadable: Callable[[Path, DataError], None] | None,
) -> list[_Seen]:
    """Return the images that can be read.

    Args:
        images: Files.
        boxes: A box for each, or none.
        note: The model.
        unreadable: Gets each image that cannot be read; None: the first one is an error.
    """
    seen = []
    for number, image in enumerate(map(Path, images)):
        try:
            seen.append(_see(image, note, boxes[number] if boxes else ""))
        except DataError as error:
            if unreadable is None:
                raise
            unreadable(image, error)
        report(decoded=number + 1, of=len(images))
    if not seen:
        raise DataError(f"none of the {len(images)} images can be read: give PNG, JPEG, TIFF, BMP or DICOM files.")
    return seen


def _compute(
    model: Classifier | PooledNetwork, squares: Sequence[npt.NDArray[np.uint8]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return features N D and log-probabilities N K."""
    count = np.arange(len(squares), dtype=np.int64)
    colour = np.stack([square if len(square) == 3 else np.repeat(square, 3, axis=0) for square in squares])
    features = embed(model, Fold(colour, count, count, count), device=choose_device("cpu"))
    with torch.inference_mode():
        logits = model.classify(torch.from_numpy(features).float())
    return features, logits.log_softmax(dim=1).numpy().astype(np.float64)


def _see(path: Path, note: ModelNote, box: str) -> _Seen:
    """Read an image.

    Args:
        path: The file.
        note: The model.
        box: The lesion, for a model of lesions.
    """
    picture = read_picture(path)
    pixels = picture.pixels
    if note.box:
        asked: BoxConfig = note.box.model_copy(update={"column": _BOX, "scale": None})
        pixels = cut(pixels, square_of({_BOX: box}, asked, path.name))
    square = fit_square(pixels, note.image_size)
    channels = square[None] if square.ndim == 2 else square.transpose(2, 0, 1)
    return _Seen(path, channels, _other_modality(picture.tags, note.modality))


def _other_modality(tags: DicomTags | None, trained_on: str) -> tuple[str, ...]:
    known = MODALITIES.get(trained_on)
    if tags is None or known is None or not tags.names_modality or tags.modality in known.dicom:
        return ()
    return (f"its DICOM header says {tags.modality}, and the model was trained on {trained_on}",)


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
