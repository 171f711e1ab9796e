"""Reads what a prediction is asked for: the model's log-probabilities, and what is unlike the training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config.modalities import MODALITIES
from cdtl_core.data.box import cut
from cdtl_core.data.cohort import Fold
from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.decode.read import fit_square, read_picture
from cdtl_core.data.frame import Slices
from cdtl_core.data.pixels import Pixels, load_pixels
from cdtl_core.errors import DataError
from cdtl_core.inference.asked import Asked, tags_of
from cdtl_core.inference.likeness import Likeness
from cdtl_core.inference.model_folder import ModelNote, PooledNetwork
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import Classifier
from cdtl_core.system.progress import report
from cdtl_core.system.scratch import scratch_folder
from cdtl_core.training.device import choose_device
from cdtl_core.training.scoring import embed

__all__ = ["Scored", "Unreadable", "score_exams", "score_images"]

_JUDGED = 64  # images of an exam that are compared with the training images, evenly spaced
_STRANGE = 0.25  # share of them from which on the exam is unlike the training images
Floats = npt.NDArray[np.float64]
Unreadable = Callable[[Path, DataError], None]


@dataclass(frozen=True)
class Scored:
    """One unit: its log-probabilities 1 K, number of images, and why it is unlike the training images."""

    asked: Asked
    log_probabilities: Floats
    count: int
    unlike: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """An image as the model sees it, C H W, and what its DICOM header says against it."""

    asked: Asked
    square: Pixels
    other: tuple[str, ...]


def score_images(
    model: Classifier | PooledNetwork,
    note: ModelNote,
    asked: Sequence[Asked],
    likeness: Likeness | None,
    unreadable: Unreadable | None,
) -> list[Scored]:
    """Return the scores of the images that can be read.

    Args:
        model: The network.
        note: Its description.
        asked: The images, one file each.
        likeness: Statistics of the training images, if the model has them.
        unreadable: Gets each image that cannot be read; None: the first one is an error.

    Raises:
        DataError: None of them can be read.
    """
    seen = []
    for number, one in enumerate(asked):
        try:
            seen.append(_see(one, note))
        except DataError as error:
            _leave_out(one, error, unreadable, alone=len(asked) == 1)
        report(decoded=number + 1, of=len(asked))
    if not seen:
        kinds = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI"
        raise DataError(f"none of the {len(asked)} images can be read: give {kinds} files.")
    colour = np.stack([one.square if len(one.square) == 3 else np.repeat(one.square, 3, axis=0) for one in seen])
    count = np.arange(len(seen), dtype=np.int64)
    features, log_probabilities = _computed(model, Fold(colour, count, count, count))
    return [
        Scored(one.asked, scores[None], 1, (*one.other, *_reasons(likeness, one.square, row)))
        for one, scores, row in zip(seen, log_probabilities, features, strict=True)
    ]


def score_exams(
    model: Classifier | PooledNetwork,
    note: ModelNote,
    asked: Sequence[Asked],
    likeness: Likeness | None,
    unreadable: Unreadable | None,
) -> list[Scored]:
    """Return the scores of the exams that can be read, one exam in memory at a time; arguments as in `score_images`.

    An exam with an image that cannot be read gets no score.
    """
    found = []
    for number, one in enumerate(asked):
        with scratch_folder("exam") as folder:
            try:
                found.append(_exam(model, note, one, likeness, folder))
            except DataError as error:
                error = DataError(f"the {note.unit} {one.name} gets no score: {error}")
                _leave_out(one, error, unreadable, alone=len(asked) == 1)
        report(scored=number + 1, of=len(asked))
    if not found:
        raise DataError(f"none of the {len(asked)} {note.unit}s can be read: each needs images that can be opened.")
    return found


def _exam(
    model: Classifier | PooledNetwork, note: ModelNote, one: Asked, likeness: Likeness | None, folder: Path
) -> Scored:
    """Return the score of one exam.

    Args:
        model: The network.
        note: Its description.
        one: The exam.
        likeness: Statistics of the training images.
        folder: For the decoded images; it is removed afterwards.
    """
    stored = load_pixels(
        one.files,
        size=note.image_size,
        folder=folder,
        squares=one.squares,
        slices=Slices.parse(note.slices),
        tile_um=note.tile_um,
    )
    nothing = np.zeros(1, np.int64)
    count = len(stored.array)
    fold = Fold(stored.array, np.arange(count), nothing, nothing, lengths=np.array([count]))
    features, log_probabilities = _computed(model, fold)
    judged = np.unique(np.linspace(0, count - 1, min(count, _JUDGED)).round().astype(np.int64)).tolist()
    strange = [reasons for place in judged if (reasons := _reasons(likeness, stored.array[place], features[place]))]
    other = dict.fromkeys(reason for file in one.files for reason in _other_modality(tags_of(file), note.modality))
    unlike = (*other, *stored.gaps)
    if strange and len(strange) >= _STRANGE * len(judged):
        many = f"{len(strange)} of {len(judged)} images" if len(judged) > 1 else "its image"
        unlike = (*unlike, f"{many}: {strange[0][0]}")
    return Scored(one, log_probabilities, count, unlike)


def _computed(model: Classifier | PooledNetwork, fold: Fold) -> tuple[Floats, Floats]:
    """Return the features N D of all images and the log-probabilities U K of their units."""
    features = embed(model, fold, device=choose_device("cpu"))
    batch = torch.from_numpy(features).float()
    with torch.inference_mode():
        logits = model.classify(Exams(batch, fold.lengths.tolist()) if fold.has_several else batch)
    return features, logits.log_softmax(dim=1).numpy().astype(np.float64)


def _see(one: Asked, note: ModelNote) -> _Seen:
    """Read an image, and cut out its lesion if the model asks for it."""
    picture = read_picture(one.files[0])
    square_of_lesion = one.squares[0] if one.squares else None
    pixels = cut(picture.pixels, square_of_lesion) if square_of_lesion else picture.pixels
    square = fit_square(pixels, note.image_size)
    channels = square[None] if square.ndim == 2 else square.transpose(2, 0, 1)
    return _Seen(one, channels, _other_modality(picture.tags, note.modality))


def _leave_out(one: Asked, error: DataError, unreadable: Unreadable | None, *, alone: bool) -> None:
    if unreadable is None or alone:
        raise error
    unreadable(Path(one.name), error)


def _reasons(likeness: Likeness | None, square: Pixels, features: Floats) -> list[str]:
    return likeness.reasons(square, features) if likeness else []


def _other_modality(tags: DicomTags | None, trained_on: str) -> tuple[str, ...]:
    known = MODALITIES.get(trained_on)
    if tags is None or known is None or not tags.names_modality or tags.modality in known.dicom:
        return ()
    return (f"its DICOM header says {tags.modality}, and the model was trained on {trained_on}",)
