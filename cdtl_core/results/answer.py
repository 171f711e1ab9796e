"""A prediction in words: the label called for each image or exam, and what that means."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdtl_core.results.calling import (
    calibration_sentence,
    call_labels,
    operating_sentences,
    other_labels_sentence,
    threshold_of,
)
from cdtl_core.results.card import load_card

if TYPE_CHECKING:
    from cdtl_core.inference.predict import Prediction  # needs torch, which `answer` imports when it predicts

__all__ = ["Answer", "AnswerRow", "answer"]


@dataclass(frozen=True)
class AnswerRow:
    """What the model says about one image or exam.

    Attributes:
        name: Its file, or the exam's name.
        images: Number of images behind it.
        probabilities: K.
        called: The label called; empty without an operating point.
        unlike: Why it is unlike the training images; empty if it is like them.
        like: Whether it is like the training images; None if that cannot be judged.
    """

    name: str
    images: int
    probabilities: tuple[float, ...]
    called: str
    unlike: tuple[str, ...]
    like: bool | None


@dataclass(frozen=True)
class Answer:
    """A prediction, the label called for each image or exam, and what it means in sentences.

    Attributes:
        table: The prediction.
        called: Label of each, N; empty texts without an operating point.
        threshold: The operating point.
        meaning: Sentences.
        faults: Why images or exams could not be read.
    """

    table: "Prediction"
    called: tuple[str, ...]
    threshold: float | None
    meaning: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What has a probability: image, exam or patient."""
        return self.table.unit

    @property
    def rows(self) -> list[AnswerRow]:
        """One for each image or exam, N."""
        table = self.table
        parts = zip(table.names, table.image_counts, table.probabilities, self.called, table.unlike, strict=True)
        return [
            AnswerRow(name, images, tuple(map(float, row)), called, unlike, self._like(unlike))
            for name, images, row, called, unlike in parts
        ]

    def count(self, number: int) -> str:
        """Return a number of them in words."""
        return f"{number} {self.unit}{'' if number == 1 else 's'}"

    def _like(self, unlike: Sequence[str]) -> bool | None:
        return False if unlike else None if self.table.not_judged else True


def answer(model: Path, given: Sequence[Path], boxes: Sequence[str] = (), *, exams: Sequence[str] = ()) -> Answer:
    """Predict images or exams with a model folder; what cannot be read is in `Answer.faults`.

    Args:
        model: The model folder.
        given: Files, folders, patterns and manifests, as of `cdtl_core.inference.predict.predict`.
        boxes: The lesion's box in each image, for a model of lesions.
        exams: Name of each file's exam; empty: as `given` says.

    Raises:
        ModelError: The folder holds no model.
        DataError: Nothing is there to read, or the number of boxes is wrong.
    """
    from cdtl_core.inference.predict import predict

    faults: list[str] = []
    table = predict(model, given, boxes, exams=exams, unreadable=lambda _, error: faults.append(str(error)))
    card = load_card(model)
    threshold = threshold_of(card, table.weights_sha256)
    called = call_labels(table.probabilities, table.labels, table.positive, threshold)
    other = other_labels_sentence(table.labels, card)
    meaning = (*operating_sentences(card), calibration_sentence(table.kind, card), other)
    return Answer(table, called, threshold, meaning, tuple(faults))
