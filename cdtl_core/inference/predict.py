"""Probabilities of a model folder for any images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.data.box import cut, square_of
from cdtl_core.data.cohort import Fold
from cdtl_core.data.decode.read import fit_square, read_image
from cdtl_core.errors import DataError
from cdtl_core.inference.model_folder import load_model
from cdtl_core.metrics.calibration import rescale
from cdtl_core.training.device import choose_device
from cdtl_core.training.train import score

__all__ = ["Prediction", "predict_images"]

_BOX = "--box"


@dataclass(frozen=True)
class Prediction:
    """Probabilities N K of labels, either ``calibrated`` on validation patients or ``raw``."""

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    kind: str


def predict_images(folder: Path, images: Sequence[Path], boxes: Sequence[str] = ()) -> Prediction:
    """Score images with the model in `folder`.

    Args:
        folder: Folder of the model.
        images: Files.
        boxes: The lesion's box in each image, ``x,y,width,height`` in pixels, for a model of cut-out lesions.

    Raises:
        ModelError: The folder holds no model.
        DataError: An image cannot be read, or the number of boxes is wrong.
    """
    model, note = load_model(folder)
    if len(boxes) != (len(images) if note.box else 0):
        wanted = f"give --box x,y,width,height for each of {len(images)} images" if note.box else "leave out --box"
        looked = "lesions cut out by their boxes" if note.box else "whole images"
        raise DataError(f"the model of {folder} uses {looked}, but {len(boxes)} boxes are given: {wanted}.")
    whole = [read_image(path) for path in images]
    if note.box:
        asked = note.box.model_copy(update={"column": _BOX, "scale": None})
        found = [square_of({_BOX: box}, asked, path.name) for box, path in zip(boxes, images, strict=True)]
        whole = [cut(image, square) for image, square in zip(whole, found, strict=True)]
    squares = [fit_square(image, note.image_size) for image in whole]
    pixels = np.stack([_three_channels(square) for square in squares])
    count = np.arange(len(images), dtype=np.int64)
    log_probabilities = score(model, Fold(pixels, count, count, count), device=choose_device("cpu"))
    if note.temperature is not None:
        log_probabilities = rescale(log_probabilities, note.temperature)
    kind = "raw" if note.temperature is None else "calibrated"
    return Prediction(note.labels, np.exp(log_probabilities), kind)


def _three_channels(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(square[None], 3, axis=0) if square.ndim == 2 else square.transpose(2, 0, 1)
