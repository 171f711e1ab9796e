"""Scores of whatever a method ends with."""

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cdtl_core.federation.evidence import score_model
from cdtl_core.federation.site import Site
from cdtl_core.imaging.cohort import Fold
from simulations.methods.method import Ensemble, Model

__all__ = ["score_any"]


def score_any(site: Site, model: Model, fold: Fold) -> npt.NDArray[np.float64]:
    """Log-probabilities N K of a fold's images; an ensemble's probabilities are the means of its parts'."""
    if isinstance(model, Ensemble):
        parts = [score_any(site, part, fold) for part in model.parts]
        return np.asarray(logsumexp(parts, axis=0) - np.log(len(parts)), np.float64)
    return score_model(site, model, fold)
