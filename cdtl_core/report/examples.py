"""Example test images or exams of a site with Grad-CAM, only for that site's report, since they show patients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cdtl_core.config.folders import SiteFolder, federation_key
from cdtl_core.config.modalities import MODALITIES
from cdtl_core.config.settings import unflatten
from cdtl_core.data.cohort import Cohort, Fold
from cdtl_core.errors import CdtlError
from cdtl_core.report.charts.figure import Gallery, Picture
from cdtl_core.report.charts.score_figures import operation_of
from cdtl_core.report.page import Block, Note, Section
from cdtl_core.report.pictures import data_url, where_strongest
from cdtl_core.results.material import Material
from cdtl_core.results.scores import Scores
from cdtl_core.results.text import plain
from cdtl_core.site.cohort import open_cohort

if TYPE_CHECKING:
    from cdtl_core.inference.model_folder import PooledNetwork
    from cdtl_core.models.model import Classifier

__all__ = ["examples"]

_EACH = 2  # pictures of each of the four kinds
_SIDE = 224
_MOST_IMAGES = 4000  # of all exams that are shown: a minute of one core
_NO_MODEL = "This site has no model yet."
_NO_MAPS = "this network has no feature maps"
_OF_IMAGES = (
    "Left: the image as the network sees it. Right: Grad-CAM for the positive label, bright where the network "
    "found evidence. A map shows where, not why, and does not show that a decision is right. "
)
_OF_EXAMS = (
    "Each exam shows its images with their weight in the decision; the weights of an exam add up to 100 %. A weight "
    "says how much an image counted, not that it shows a lesion. Right of each image: Grad-CAM for the positive label, "
    "bright where the network found evidence. "
)
_KINDS = ("rightly called", "missed", "wrongly called", "correctly not called")


@dataclass(frozen=True)
class _Choice:
    place: int
    kind: int


def examples(one: Material) -> Section:
    """Return images or exams classified correctly and wrongly, the clearest of each, with Grad-CAM maps."""
    card, main = one.card, one.main
    if main is None or card is None or main not in one.cards:
        return Section("examples", [], _NO_MODEL)
    test = one.test[main]
    try:
        cohort = open_cohort(one.home, unflatten(one.cards[main].config))
    except CdtlError as error:
        return Section("examples", [], f"The images cannot be read now: {error}")
    fold = cohort.folds["test"]
    if cohort.names(fold) != test.images:
        return Section("examples", [], "The site's images have changed since the run, so none is shown.")
    told = operation_of(test, one.val.get(main))
    choices = _chosen(test, told.confusion.threshold)
    lead = _OF_EXAMS if fold.has_several else _OF_IMAGES
    lead += "Synthetic images." if card.cohort.synthetic else "These are patients' images: this page stays at the site."
    return Section("examples", _blocks(one, cohort, choices, test, card.positive), lead=lead)


def _blocks(one: Material, cohort: Cohort, choices: list[_Choice], test: Scores, positive: str) -> list[Block]:
    """Return a gallery of images, or one for each exam.

    Args:
        one: The site's results.
        cohort: Its images.
        choices: Which test units are shown.
        test: Their scores.
        positive: Name of the positive label.
    """
    from cdtl_core.inference.model_folder import load_model  # torch: only for a site that has a model

    key = federation_key(str(one.cards[one.main or ""].config["name"]), one.main or "")
    model, note = load_model(SiteFolder(one.home).model(key))
    fold, label = cohort.folds["test"], note.labels.index(note.positive)
    if not fold.has_several:
        return [Gallery(_pictures(model, fold, choices, test, label, positive))]
    from cdtl_core.report.exam_pictures import ExamPictures

    gray = note.modality in MODALITIES and not MODALITIES[note.modality].colour
    exams = ExamPictures(cohort, fold, model, label, gray)
    shown = _affordable(choices, fold)
    blocks: list[Block] = [
        exams.gallery(choice.place, f"{_told(choice, test, positive)}; {note.unit} {test.images[choice.place]}")
        for choice in shown
    ]
    if len(shown) < len(choices):
        blocks.append(
            Note(f"{len(choices) - len(shown)} more would take long: their weights need all of their images.")
        )
    return blocks


def _affordable(choices: list[_Choice], fold: Fold) -> list[_Choice]:
    """Return the choices up to a number of images, since each is computed again; at least the first."""
    images = np.cumsum([fold.lengths[choice.place] for choice in choices])
    return [choice for number, choice in enumerate(choices) if number == 0 or images[number] <= _MOST_IMAGES]


def _pictures(
    model: "Classifier | PooledNetwork", fold: Fold, choices: list[_Choice], test: Scores, label: int, positive: str
) -> list[Picture]:
    """Return single images with their maps.

    Args:
        model: The network.
        fold: Test images.
        choices: Which of them are shown.
        test: Their scores.
        label: Index of the positive label.
        positive: Its name.
    """
    from cdtl_core.training.batches import on_device
    from cdtl_core.training.device import choose_device
    from cdtl_core.training.inputs import plain_inputs
    from cdtl_core.training.saliency import grad_cam

    device = choose_device("cpu")
    places = np.array([choice.place for choice in choices], np.int64)
    heat = grad_cam(model, on_device(plain_inputs(model, fold)(places), device), label)
    heats = [None] * len(choices) if heat is None else list(heat.numpy())
    pictures = []
    for choice, found in zip(choices, heats, strict=True):
        place, score = choice.place, plain(float(test.probability[choice.place]), 2)
        truth = positive if test.positive[place] else f"not {positive}"
        pixels = np.asarray(fold.pixels[fold.rows[place]])
        where = f"the map is strongest {where_strongest(found)}" if found is not None else _NO_MAPS
        pictures.append(
            Picture(
                data_url(pixels, found, side=_SIDE),
                f"Test image, truth {truth}, probability {score}; {where}.",
                f"{_told(choice, test, positive)}; {test.images[place]}",
            )
        )
    return pictures


def _told(choice: _Choice, test: Scores, positive: str) -> str:
    """Return what was decided about a unit, in a phrase."""
    truth = positive if test.positive[choice.place] else f"not {positive}"
    score = plain(float(test.probability[choice.place]), 2)
    return f"{_KINDS[choice.kind]} {positive}: truth {truth}, probability {score}"


def _chosen(test: Scores, threshold: float) -> list[_Choice]:
    """Return the clearest units of each kind, each patient once."""
    called, found, seen = test.probability >= threshold, [], set[int]()
    kinds = (
        called & test.positive,
        ~called & test.positive,
        called & ~test.positive,
        ~called & ~test.positive,
    )
    for kind, mask in enumerate(kinds):
        order = np.argsort(-np.abs(test.probability - threshold), kind="stable")
        taken = 0
        for place in order[mask[order]]:
            if taken < _EACH and int(test.patients[place]) not in seen:
                seen.add(int(test.patients[place]))
                found.append(_Choice(int(place), kind))
                taken += 1
    return found
