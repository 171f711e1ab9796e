"""Probabilities of a model folder for images from anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.federation.model_folder import load_model
from cdtl_core.imaging.cohort import Fold
from cdtl_core.imaging.read import fit_square, read_image
from cdtl_core.learning.calibration import rescale
from cdtl_core.learning.device import choose_device
from cdtl_core.learning.train import score

__all__ = ["Prediction", "predict_images"]


@dataclass(frozen=True)
class Prediction:
    """Probabilities N K of labels, and whether they are ``calibrated`` on validation patients or ``raw``."""

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    kind: str


def predict_images(folder: Path, images: Sequence[Path]) -> Prediction:
    """Score images with the model in `folder`.

    Raises:
        ModelError: The folder holds no model.
        DataError: An image cannot be read.
    """
    model, note = load_model(folder)
    squares = [fit_square(read_image(path), note.image_size) for path in images]
    pixels = np.stack([_three_channels(square) for square in squares])
    count = np.arange(len(images), dtype=np.int64)
    log_probabilities = score(model, Fold(pixels, count, count, count), device=choose_device("cpu"))
    if note.temperature is not None:
        log_probabilities = rescale(log_probabilities, note.temperature)
    kind = "raw" if note.temperature is None else "calibrated"
    return Prediction(note.labels, np.exp(log_probabilities), kind)


def _three_channels(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(square[None], 3, axis=0) if square.ndim == 2 else square.transpose(2, 0, 1)
