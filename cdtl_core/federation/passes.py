"""Passes of a site's images through its networks at the end of a run.

Pool, selection, scores and statistics ask for the same images and networks. With `remembering` no score is computed
twice, and features of training and validation images are kept for the statistics, if they take little memory.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Fold
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.training.scoring import embed, score, score_and_embed

if TYPE_CHECKING:
    from cdtl_core.federation.site import Site

__all__ = ["MOST_OF_UNIT", "Passes", "features_of", "remembering", "scores_of"]

Floats = npt.NDArray[np.float64]
_Tensors = tuple[tuple[str, int], ...]
MOST_OF_UNIT = 8
"""Images of an exam that the statistics use: more are alike, and a volume of hundreds must not outvote the others."""
_MOST = 1 << 23
"""Numbers in the features of a fold that are kept, 32 MB; those of more images are computed again."""


@dataclass(frozen=True)
class Passes:
    """What networks gave for folds of images. It keeps their tensors, and nothing may write to these.

    Attributes:
        scores: Tensors of a network and fold to log-probabilities.
        features: Tensors of a backbone and fold to features.
        kept: The tensors and folds, so that no other object gets the id of one.
    """

    scores: dict[tuple[_Tensors, int], Floats] = field(default_factory=dict)
    features: dict[tuple[_Tensors, int], npt.NDArray[np.float32]] = field(default_factory=dict)
    kept: list[object] = field(default_factory=list)


def remembering(site: "Site") -> "Site":
    """Return the site with a memory of its passes, for the end of one run."""
    return replace(site, passes=Passes())


def scores_of(site: "Site", weights: Weights, fold: Fold) -> Floats:
    """Return log-probabilities U K of a fold's units.

    Args:
        site: The site; its network gets these weights, unless the pass is known.
        weights: All tensors of a classifier.
        fold: The images.
    """
    if site.passes is None:
        load_into(site.model, weights)
        return score(site.model, fold, device=site.device, entry=site.entry)
    passes, key = site.passes, (_ids(weights), id(fold))
    if key not in passes.scores:
        load_into(site.model, weights)
        passes.kept.extend((*weights.values(), fold))
        if _keeps_features(site, fold):
            scores, features = score_and_embed(site.model, fold, device=site.device, entry=site.entry)
            passes.features[_ids(weights, "backbone."), id(fold)] = features
        else:
            scores = score(site.model, fold, device=site.device, entry=site.entry)
        passes.scores[key] = scores
    return passes.scores[key]


def features_of(site: "Site", weights: Weights, fold: Fold) -> Floats:
    """Return features N D of all images of a fold; arguments as of `scores_of`."""
    known = site.passes.features if site.passes is not None else {}
    key = _ids(weights, "backbone."), id(fold)
    if key in known:
        return known[key].astype(np.float64)
    load_into(site.model, weights)
    return embed(site.model, fold, device=site.device, entry=site.entry)


def _keeps_features(site: "Site", fold: Fold) -> bool:
    """Whether the statistics ask for the features of a fold, and they are few; test images have none."""
    asked = any(fold is site.cohort.folds[name].thinned(MOST_OF_UNIT) for name in ("train", "val"))
    return asked and fold.num_images * site.model.head.in_features <= _MOST


def _ids(weights: Weights, prefix: str = "") -> _Tensors:
    return tuple((name, id(value)) for name, value in sorted(weights.items()) if name.startswith(prefix))
