"""Passes of a site's images through its networks at the end of a run.

Pool, selection, scores and statistics ask for the same images and networks. With `remembering` each pass is made once.
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

__all__ = ["Passes", "features_of", "remembering", "scores_of"]

Floats = npt.NDArray[np.float64]
_Tensors = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Passes:
    """What networks gave for folds of images. It keeps their tensors, and nothing may write to these.

    Attributes:
        scores: Tensors of a network and fold to log-probabilities.
        features: Tensors of a backbone and fold to features.
        kept: The tensors and folds, so that their numbers stay theirs.
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
    passes, key = site.passes, (_numbers(weights), id(fold))
    if key not in passes.scores:
        load_into(site.model, weights)
        scores, features = score_and_embed(site.model, fold, device=site.device, entry=site.entry)
        passes.kept.extend((weights, fold))
        passes.scores[key], passes.features[_numbers(weights, "backbone."), id(fold)] = scores, features
    return passes.scores[key]


def features_of(site: "Site", weights: Weights, fold: Fold) -> Floats:
    """Return features N D of all images of a fold; arguments as of `scores_of`."""
    known = site.passes.features if site.passes is not None else {}
    key = _numbers(weights, "backbone."), id(fold)
    if key in known:
        return known[key].astype(np.float64)
    load_into(site.model, weights)
    return embed(site.model, fold, device=site.device, entry=site.entry)


def _numbers(weights: Weights, prefix: str = "") -> _Tensors:
    return tuple((name, id(value)) for name, value in sorted(weights.items()) if name.startswith(prefix))
