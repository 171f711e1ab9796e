"""Pictures of predicted images with Grad-CAM, for the site's own PACS."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.config.modalities import MODALITIES
from cdtl_core.data.cohort import Fold
from cdtl_core.data.decode.read import fit_square, read_picture
from cdtl_core.data.frame import Slices
from cdtl_core.data.pixels import load_pixels
from cdtl_core.inference.model_folder import ModelNote, load_model
from cdtl_core.models.exams import Exams
from cdtl_core.report.pictures import seen, side_by_side
from cdtl_core.system.scratch import scratch_folder
from cdtl_core.training.batches import on_device
from cdtl_core.training.device import CPU
from cdtl_core.training.inputs import plain_inputs
from cdtl_core.training.saliency import grad_cam
from cdtl_core.training.scoring import weigh

__all__ = ["exam_pictures", "image_pictures"]

_SIDE = 448
_MOST = 4  # images of an exam


def image_pictures(folder: Path, files: Sequence[Path]) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """Return the place of each image and its picture, H W 3; empty for a network without feature maps.

    Args:
        folder: A model folder of a model of images.
        files: The images.

    Raises:
        ModelError: The folder holds no model.
        DataError: An image cannot be read.
    """
    model, note = load_model(folder)
    found = []
    for place, file in enumerate(files):
        square = fit_square(read_picture(file).pixels, note.image_size)
        channels = square[None] if square.ndim == 2 else square.transpose(2, 0, 1)
        one = np.zeros(1, np.int64)
        images = on_device(plain_inputs(model, Fold(channels[None], one, one, one))(one), CPU)
        heat = grad_cam(model, images, note.labels.index(note.positive))
        if heat is not None:
            found.append((place, np.asarray(side_by_side(channels, heat.numpy()[0], side=_SIDE))))
    return found


def exam_pictures(folder: Path, files: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
    """Return pictures of the images with the largest weights; arguments and errors as in `image_pictures`."""
    model, note = load_model(folder)
    with scratch_folder("exam") as scratch:
        stored = load_pixels(
            files, size=note.image_size, folder=scratch, slices=Slices.parse(note.slices), tile_um=note.tile_um
        )
        count, nothing = len(stored.array), np.zeros(1, np.int64)
        fold = Fold(stored.array, np.arange(count), nothing, nothing, lengths=np.array([count]))
        shown = np.sort(np.argsort(-weigh(model, fold, device=CPU), kind="stable")[:_MOST])
        images = Exams(on_device(plain_inputs(model, fold)(shown), CPU), (len(shown),))
        heat = grad_cam(model, images, note.labels.index(note.positive))
        if heat is None:
            return []
        return [
            np.asarray(side_by_side(_seen(stored.array[place], note), heat.numpy()[number], side=_SIDE))
            for number, place in enumerate(shown.tolist())
        ]


def _seen(pixels: npt.NDArray[np.uint8], note: ModelNote) -> npt.NDArray[np.uint8]:
    is_gray = note.modality in MODALITIES and not MODALITIES[note.modality].colour
    return seen(np.asarray(pixels), gray=is_gray)
