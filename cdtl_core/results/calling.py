"""A prediction in words: the label called, how often that is right, and what a probability means."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cdtl_core.errors import ModelError
from cdtl_core.results.card import ModelCard
from cdtl_core.results.report import Estimate
from cdtl_core.results.text import plural

__all__ = ["calibration_sentence", "call_labels", "operating_sentences", "other_labels_sentence", "threshold_of"]


def threshold_of(card: ModelCard | None, weights_sha256: str) -> float | None:
    """Return the operating point of a model; None if it has no card, or its validation patients lacked a class.

    Args:
        card: The card in the model's folder.
        weights_sha256: Hash of the model.

    Raises:
        ModelError: The card is of another model.
    """
    if card is None:
        return None
    if card.weights_sha256 != weights_sha256:
        raise ModelError("model_card.json describes another model than model.json: copy the model folder again.")
    return card.operating_point.threshold


def call_labels(
    probabilities: npt.NDArray[np.float64], labels: Sequence[str], positive: str, threshold: float | None
) -> tuple[str, ...]:
    """Return the label called for each unit: the positive one from the threshold on, else the likeliest other one.

    Args:
        probabilities: N K.
        labels: K.
        positive: The positive label.
        threshold: Its smallest probability; None: nothing is called, and the texts are empty.
    """
    if threshold is None:
        return ("",) * len(probabilities)
    at = labels.index(positive)
    others = probabilities.copy()
    others[:, at] = -1.0
    likeliest = others.argmax(axis=1)
    return tuple(
        positive if row[at] >= threshold else labels[other]
        for row, other in zip(probabilities, likeliest.tolist(), strict=True)
    )


def operating_sentences(card: ModelCard | None) -> list[str]:
    """Return what is called when, and how often that was right on the site's test patients."""
    if card is None:
        return ["No label is called: this folder has no model card, which holds the operating point."]
    point, positive = card.operating_point, card.positive
    if point.threshold is None:
        return ["No label is called: the validation patients lacked a class, so there is no operating point."]
    units = plural(card.cohort.unit)
    found = [
        f"{positive} is called from a probability of {point.threshold:.3f} on, the value with the largest "
        f"sensitivity + specificity on {point.validation_patients} validation patients.",
        f"On this site's {card.cohort.patients.test} test patients, of 100 {units} that were {positive} it called "
        f"{_of_100(point.sensitivity)} {positive} (sensitivity), and of 100 that were not it called "
        f"{_of_100(point.specificity)} something else (specificity).",
    ]
    if card.cohort.synthetic:
        found.append("The model was trained and tested on synthetic images: none of this has a medical meaning.")
    return found


def calibration_sentence(kind: str, card: ModelCard | None) -> str:
    """Return what a probability means.

    Args:
        kind: ``calibrated`` or ``raw``.
        card: The card in the model's folder.
    """
    told, units = card.calibration if card else None, plural(card.cohort.unit if card else "image")
    if kind == "raw":
        why = f" {told.validation_patients} validation patients are too few, 20 are needed." if told else ""
        return (
            f"The probabilities are NOT calibrated: 0.80 does not mean that 80 of 100 such {units} have this label. "
            f"They only rank {units}.{why}"
        )
    by = f" on {told.validation_patients} validation patients" if told else ""
    off = f" On the test patients they were off by {told.ece:.2f} on average." if told and told.ece is not None else ""
    return f"The probabilities are calibrated{by}: of 100 {units} with 0.80, about 80 should have this label.{off}"


def other_labels_sentence(labels: Sequence[str], card: ModelCard | None) -> str:
    """Return what happens to images of labels that the model does not have.

    Args:
        labels: The model's labels.
        card: The card in the model's folder; it names the labels whose images the site left out.
    """
    left_out = sorted(own for own, task in card.cohort.label_map.items() if not task) if card else []
    named = f"of the labels that the site left out ({', '.join(left_out)})" if left_out else "of any other label"
    return (
        f"Images {named} are not recognised as such: the model gives them one of its labels, {', '.join(labels)}, and "
        "they can look like the training images."
    )


def _of_100(found: Estimate) -> str:
    if found.value is None:
        return "an unknown number"
    if found.low is None or found.high is None:
        return f"{100 * found.value:.0f}"
    return f"{100 * found.value:.0f} (95 % interval {100 * found.low:.0f} to {100 * found.high:.0f})"
