"""Example test images of a site with Grad-CAM, only for that site's report, since they show patients."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdtl_core.config.folders import SiteFolder, federation_key
from cdtl_core.config.settings import unflatten
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import CdtlError
from cdtl_core.report.charts.figure import Gallery, Picture
from cdtl_core.report.charts.score_figures import Operation, operation_of
from cdtl_core.report.page import Section
from cdtl_core.results.material import Material
from cdtl_core.results.scores import Scores
from cdtl_core.results.text import plain
from cdtl_core.site.cohort import open_cohort

__all__ = ["examples"]

_EACH = 2  # pictures of each of the four kinds
_SIDE = 224
_NO_MODEL = "This site has no model yet."
_KINDS = ("rightly called", "missed", "wrongly called", "correctly not called")


@dataclass(frozen=True)
class _Choice:
    place: int
    kind: int


def examples(one: Material) -> Section:
    """Return images classified correctly and wrongly, the clearest of each, with Grad-CAM maps."""
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
    pictures = _pictures(one, fold, test, told, card.positive)
    lead = (
        "Left: the image as the network sees it. Right: Grad-CAM for the positive label, bright where the network "
        "found evidence. A map shows where, not why, and does not show that a decision is right. "
    )
    lead += "Synthetic images." if card.cohort.synthetic else "These are patients' images: this page stays at the site."
    return Section("examples", [Gallery(pictures)], lead=lead)


def _pictures(one: Material, fold: Fold, test: Scores, told: Operation, positive: str) -> list[Picture]:
    from cdtl_core.inference.model_folder import load_model  # torch: only for a site that has a model
    from cdtl_core.training.batches import on_device
    from cdtl_core.training.device import choose_device
    from cdtl_core.training.inputs import plain_inputs
    from cdtl_core.training.saliency import grad_cam

    choices = _chosen(test, told.confusion.threshold)
    key = federation_key(str(one.cards[one.main or ""].config["name"]), one.main or "")
    model, note = load_model(SiteFolder(one.home).model(key))
    device = choose_device("cpu")
    places = np.array([choice.place for choice in choices], np.int64)
    heat = grad_cam(model, on_device(plain_inputs(model, fold)(places), device), note.labels.index(note.positive))
    heats = [None] * len(choices) if heat is None else list(heat.numpy())
    pictures = []
    for choice, found in zip(choices, heats, strict=True):
        place, score = choice.place, plain(float(test.probability[choice.place]), 2)
        truth = positive if test.positive[place] else f"not {positive}"
        pixels = np.asarray(fold.pixels[fold.rows[place]])
        where = f"the map is strongest {_where(found)}" if found is not None else "this network has no feature maps"
        pictures.append(
            Picture(
                _data_url(pixels, found),
                f"Test image, truth {truth}, probability {score}; {where}.",
                f"{_KINDS[choice.kind]} {positive}: truth {truth}, probability {score}; {test.images[place]}",
            )
        )
    return pictures


def _chosen(test: Scores, threshold: float) -> list[_Choice]:
    """Return the clearest images of each kind, each patient once."""
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


def _where(heat: npt.NDArray[np.float32]) -> str:
    """Describe in words in which ninth of the image the map is strongest."""
    rows, columns = (np.array_split(np.arange(size), 3) for size in heat.shape)
    means = np.array([[heat[np.ix_(row, column)].mean() for column in columns] for row in rows])
    row, column = (int(place) for place in np.unravel_index(means.argmax(), means.shape))
    words = [("upper", "middle", "lower")[row], ("left", "centre", "right")[column]]
    return "in the centre" if (row, column) == (1, 1) else f"at the {' '.join(words)}"


def _data_url(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32] | None) -> str:
    """Return image and overlay side by side, as a JPEG in a data URL."""
    plain_image = np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels
    base = plain_image.transpose(1, 2, 0).astype(np.float64)
    panels: Sequence[npt.NDArray[np.float64]] = [base]
    if heat is not None:
        from matplotlib import colormaps

        colour = colormaps["inferno"](heat)[..., :3] * 255
        weight = 0.75 * heat[..., None].astype(np.float64)
        gray = base.mean(axis=2, keepdims=True)
        panels = [base, gray * (1 - weight) * 0.8 + colour * weight]
    images = [Image.fromarray(panel.clip(0, 255).astype(np.uint8)).resize((_SIDE, _SIDE)) for panel in panels]
    whole = Image.new("RGB", (_SIDE * len(images) + 4 * (len(images) - 1), _SIDE))
    for place, image in enumerate(images):
        whole.paste(image, (place * (_SIDE + 4), 0))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
