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

__all__ = ["Prediction", "predict"]

_BOX = "--box"


@dataclass(frozen=True)
class Prediction:
    """Probabilities N K of labels, either ``calibrated`` on validation patients or ``raw``."""

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    kind: str


def predict(folder: Path | str, images: Sequence[Path | str], boxes: Sequence[str] = ()) -> Prediction:
    """Probabilities that a trained model gives to images. Research use only, not a medical device.

    Args:
        folder: A model folder, for example ``runs/demo/sites/north``.
        images: N files: PNG, JPEG, TIFF, BMP or DICOM.
        boxes: The lesion's box in each image, ``x,y,width,height`` in pixels, for a model of cut-out lesions.

    Returns:
        The model's labels K, a probability for each image and label, N K, and whether they are calibrated.

    Raises:
        ModelError: The folder holds no model.
        DataError: An image cannot be read, or the number of boxes is wrong.

    Examples:
        >>> from cdtl_core import predict
        >>> predict("runs/demo/sites/north", ["lesion.png"]).probabilities.shape
        (1, 2)
    """
    model, note = load_model(folder)
    files = [Path(image) for image in images]
    if len(boxes) != (len(files) if note.box else 0):
        wanted = f"give --box x,y,width,height for each of {len(images)} images" if note.box else "leave out --box"
        looked = "lesions cut out by their boxes" if note.box else "whole images"
        raise DataError(f"the model of {folder} uses {looked}, but {len(boxes)} boxes are given: {wanted}.")
    whole = [read_image(path) for path in files]
    if note.box:
        asked = note.box.model_copy(update={"column": _BOX, "scale": None})
        found = [square_of({_BOX: box}, asked, path.name) for box, path in zip(boxes, files, strict=True)]
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
