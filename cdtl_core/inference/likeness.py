"""Whether an image is like those that a model was trained on.

A model gives a probability for any image, also for one of another modality. At the end of a run the site therefore
writes ``training_statistics.json`` beside its model: mean and spread of a few measures of the training images, and of
their features. An image is unlike them if it is farther away than almost all validation images. No differential privacy
covers the file: it stays in the model's folder, no message and no exported model holds it. docs/privacy.md says what it
reveals.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.data.cohort import Fold
from cdtl_core.data.texture import detail_spreads
from cdtl_core.errors import ModelError
from cdtl_core.federation.evidence import PooledModel
from cdtl_core.federation.finish import SiteModel
from cdtl_core.federation.passes import MOST_OF_UNIT, features_of
from cdtl_core.federation.site import Site
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["STATISTICS_FILE", "Gauge", "Likeness", "gauge_of", "has_colour", "load_likeness", "statistics_of"]
__all__ += ["measure", "save_likeness"]

STATISTICS_FILE = "training_statistics.json"
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

MEASURES = ("brightness", "contrast", "dark parts", "middle gray", "bright parts", "border")
DETAILS = ("finest detail", "fine detail", "coarse detail", "coarsest detail")
_FEWEST = 10  # validation images below which no threshold is set
_BEYOND = 1 / 500  # share of images like the training images that may lie beyond a threshold
_FLOOR = 0.05  # share of the mean spread: a feature that is constant in training must not decide alone


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gauge(_Closed):
    """Distance from the training images: mean and spread of each value F, and the distance that is still like them."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    threshold: float

    def deviations(self, values: Floats) -> Floats:
        """Return how many spreads each value N F is from its mean."""
        found: Floats = (values - np.array(self.mean)) / np.array(self.spread)
        return found

    def distances(self, values: Floats) -> Floats:
        """Return the root mean square of the deviations, N."""
        found: Floats = np.sqrt((self.deviations(values) ** 2).mean(axis=1))
        return found


class Likeness(_Closed):
    """Statistics of a model's training images.

    Attributes:
        weights_sha256: Of the model they belong to.
        images: Training images.
        validation: Validation images behind the thresholds.
        coloured: Share of the training images with colour.
        pixels: Gauge of `measure`; None with fewer than 10 validation images.
        features: Gauge of the network's features; likewise.
    """

    schema_version: int = 1
    weights_sha256: str
    images: int
    validation: int
    coloured: float
    pixels: Gauge | None
    features: Gauge | None

    def reasons(self, square: Pixels, features: Floats) -> list[str]:
        """Return why an image is unlike the training images, one phrase each; empty if it is like them.

        Args:
            square: The image as the model sees it, C H W.
            features: Its features, D.
        """
        found, is_colour = [], has_colour(square)
        if is_colour and self.coloured == 0:
            found.append("it has colour, and all training images are gray")
        if not is_colour and self.coloured == 1:
            found.append("it is gray, and all training images have colour")
        if self.pixels is not None:
            values = measure(square)[None]
            if self.pixels.distances(values)[0] > self.pixels.threshold:
                found.append(_strangest(self.pixels, values[0]))
        if self.features is not None:
            distance = self.features.distances(features[None])[0]
            if distance > self.features.threshold:
                found.append(
                    f"to the network it looks different: distance {distance:.1f}, where {self.features.threshold:.1f} "
                    f"is the most by {self.validation} validation images"
                )
        return found


def statistics_of(site: Site, model: SiteModel) -> dict[str, Any]:
    """Return a `Likeness` without its hash: of a site's training images, with thresholds from its validation images.

    Args:
        site: The site; its network gets the model's weights.
        model: The model that the site uses.
    """
    train, val = (site.cohort.folds[name].thinned(MOST_OF_UNIT) for name in ("train", "val"))
    pixels = [_measures(fold) for fold in (train, val) if fold.num_images]
    features = [_features(site, model, fold) for fold in (train, val) if fold.num_images]
    enough = val.num_images >= _FEWEST
    return {
        "images": train.num_images,
        "validation": val.num_images,
        "coloured": float(np.mean([has_colour(train.pixels[row]) for row in train.rows])),
        "pixels": gauge_of(*pixels) if enough else None,
        "features": gauge_of(*features) if enough else None,
    }


def save_likeness(folder: Path, likeness: Likeness) -> None:
    """Write the statistics beside the model."""
    replace_json(folder / STATISTICS_FILE, likeness.model_dump(mode="json"))


def load_likeness(folder: Path, weights_sha256: str) -> Likeness | None:
    """Return the statistics of a model folder; None if it has none, as folders of earlier versions.

    Raises:
        ModelError: They are damaged, or of another model.
    """
    path = folder / STATISTICS_FILE
    if not path.exists():
        return None
    try:
        found = Likeness.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}): copy the model folder again.") from None
    if found.weights_sha256 != weights_sha256:
        raise ModelError(f"{path} belongs to another model: copy the model folder again.")
    return found


def measure(square: Pixels) -> Floats:
    """Return brightness, contrast, quantiles, border and detail of an image C H W, 10 values."""
    gray = Image.fromarray(square[0] if len(square) == 1 else square.transpose(1, 2, 0)).convert("L")
    values = np.asarray(gray, np.float64)
    edges = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    levels = [values.mean(), values.std(), *np.quantile(values, (0.1, 0.5, 0.9)), np.median(edges)]
    details = [np.log1p(spread) for spread in detail_spreads(gray)]
    return np.array([*levels, *details], np.float64)


def has_colour(square: Pixels) -> bool:
    """Whether the channels of an image C H W differ."""
    return bool((square != square[:1]).any())


def gauge_of(train: Floats, val: Floats) -> Gauge:
    """Return the gauge of values N F of training images, with a threshold from those of validation images, M F."""
    spread = train.std(axis=0)
    spread = np.maximum(spread, max(_FLOOR * float(spread.mean()), 1e-9))
    gauge = Gauge(mean=tuple(train.mean(axis=0).tolist()), spread=tuple(spread.tolist()), threshold=0.0)
    return gauge.model_copy(update={"threshold": _threshold(gauge.distances(val))})


@dataclass(frozen=True)
class _Image:
    """An image C H W; those of one content are equal."""

    content: str
    square: Pixels = field(compare=False)


def _measures(fold: Fold) -> Floats:
    """Return the measures N F of a fold's images."""
    found = zip(fold.image_ids, fold.rows, strict=True)
    return np.stack([_measure_once(_Image(content, fold.pixels[row])) for content, row in found])


@functools.lru_cache(maxsize=32768)  # every method of a simulation measures the same images
def _measure_once(image: _Image) -> Floats:
    return measure(image.square)


def _features(site: Site, model: SiteModel, fold: Fold) -> Floats:
    """Return the features N D of a fold; those of both networks side by side if the model has two."""
    single = model.one if isinstance(model, PooledModel) else model
    parts = [single] if single is not None else [model.own, model.joint]  # type: ignore[union-attr]
    return np.concatenate([features_of(site, weights, fold) for weights in parts], axis=1)


def _threshold(distances: Floats) -> float:
    """Return the limit of a prediction interval for one more distance; with few distances it is wider.

    Source: the cube root of a sum of squares is nearly normal (Wilson and Hilferty 1931).
    """
    from scipy.special import stdtrit  # takes a tenth of a second, and few validation images have no limit

    roots, count = distances ** (2 / 3), len(distances)
    width = float(stdtrit(count - 1, 1 - _BEYOND)) * float(roots.std(ddof=1)) * np.sqrt(1 + 1 / count)
    return float((roots.mean() + width) ** 1.5)


def _strangest(gauge: Gauge, values: Floats) -> str:
    """Name the measure that is farthest from the training images."""
    names: Sequence[str] = (*MEASURES, *DETAILS)
    at = int(np.argmax(np.abs(gauge.deviations(values[None])[0])))
    low, high = (gauge.mean[at] + side * 2 * gauge.spread[at] for side in (-1, 1))
    return f"its {names[at]} is {values[at]:.3g}, in the training images mostly {max(low, 0):.3g} to {high:.3g}"
