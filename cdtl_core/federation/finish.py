"""The end of a run at a site: pool own and joint model, select a model, calibrate it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Fold
from cdtl_core.federation.evidence import PooledModel, fold, pool_models, score_model
from cdtl_core.federation.model_selection import JOINT, OWN, POOL, Selection, select_model
from cdtl_core.federation.one_network import differ_in_heads_only, with_one_network
from cdtl_core.federation.pool import FEWEST_PATIENTS
from cdtl_core.federation.received import load_round
from cdtl_core.federation.site import RoundOrder, Site, SiteMemory, with_fresh_norms
from cdtl_core.metrics.calibration import fit_temperature
from cdtl_core.metrics.metrics import log_loss_by_patient
from cdtl_core.models.weights import Weights

__all__ = ["Outcome", "SiteModel", "candidate", "finish", "finish_one"]

Floats = npt.NDArray[np.float64]
_NEARLY_CALIBRATED = 0.25
"""Standard deviation of the logarithm of a fitted pool's temperature; docs/decisions.md explains the value."""
SiteModel = Weights | PooledModel
"""A classifier's tensors, or two pooled classifiers."""


@dataclass(frozen=True)
class Outcome:
    """Result of a run at a site; only the fields named in `cdtl_core.federation.wire` are sent.

    Attributes:
        models: Candidate to model.
        pooled: The pool of own and joint model; None if there was only one model.
        selection: The candidate that the site uses.
        temperatures: Candidate to the divisor of its logits; None if the site has too few validation patients to
            calibrate.
        test: Candidate to log-probabilities N K of the test images.
        val: The same for the validation images; for a pool fitted on them, from pools fitted without their patients.
    """

    models: Mapping[str, SiteModel]
    pooled: PooledModel | None
    selection: Selection
    temperatures: Mapping[str, float | None]
    test: Mapping[str, Floats]
    val: Mapping[str, Floats]

    @property
    def used(self) -> SiteModel:
        """The model that the site uses."""
        return self.models[self.selection.chosen]

    @property
    def temperature(self) -> float | None:
        """Temperature of the model that the site uses."""
        return self.temperatures[self.selection.chosen]


def finish(
    site: Site,
    own: Weights,
    joint: Weights,
    others: Weights | None = None,
    donors: Mapping[str, Weights] | None = None,
) -> Outcome:
    """Pool both models of a site. Test patients are scored and never used for a choice.

    Args:
        site: The hospital.
        own: The own model's classifier.
        joint: The joint model, with the site's own norms.
        others: Mean of the other sites' own heads, see `pool_models`.
        donors: The same by modality.

    Raises:
        ModelError: The weights do not fit the site's model.
    """
    pooled = pool_models(site, own, joint, others, donors, equal=site.config.pool.share == "equal")
    if (site.config.trains_only_heads and site.config.model.pooling != "attention") or differ_in_heads_only(pooled):
        return _outcome(site, {OWN: own, JOINT: joint, POOL: fold(pooled)}, pooled)
    pooled = with_one_network(site, pooled)
    return _outcome(site, {OWN: own, JOINT: joint, POOL: pooled.one or pooled}, pooled)


def finish_one(site: Site, model: Weights, *, labels_differ: bool = False) -> Outcome:
    """Return the outcome of a run without a pool: `own` for local training, `joint` for a federation.

    Args:
        site: The hospital.
        model: All tensors of the classifier.
        labels_differ: Whether it is the own model of a site whose labels are not those of the task.
    """
    name = OWN if site.config.method == "alone" or labels_differ else JOINT
    return _outcome(site, {name: model}, None)


def _outcome(site: Site, models: Mapping[str, SiteModel], pooled: PooledModel | None) -> Outcome:
    val, test = site.cohort.folds["val"], site.cohort.folds["test"]
    of_val, of_test = _scores(site, models, val, _known(pooled)), _scores(site, models, test, {})
    losses = {name: log_loss_by_patient(val.labels, scores, val.patients) for name, scores in of_val.items()}
    settings = site.config.model_selection
    selection = select_model(losses, standard_errors=settings.standard_errors if settings.enabled else None)
    temperatures = {
        name: fit_temperature(scores, val.labels, val.patients, deviation=_deviation(name, pooled))
        for name, scores in of_val.items()
    }
    return Outcome(models, pooled, selection, temperatures, of_test, of_val)


def _deviation(name: str, pooled: PooledModel | None) -> float | None:
    """Return the prior deviation of a candidate's temperature: small if the pool's scale was fitted."""
    if name != POOL or pooled is None or pooled.pool.by != "evidence":
        return None
    return _NEARLY_CALIBRATED if pooled.pool.num_patients >= FEWEST_PATIENTS else None


def _known(pooled: PooledModel | None) -> dict[str, Floats]:
    """Return candidate to log-probabilities N K of the validation images that the pool's fit has computed."""
    if pooled is None or pooled.val is None:
        return {}
    parts = zip((OWN, JOINT), pooled.parts_val or (), strict=False)
    return {**dict(parts), POOL: pooled.val}


def _scores(
    site: Site, models: Mapping[str, SiteModel], images: Fold, known: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return log-probabilities N K by candidate, without running a network again.

    Args:
        site: The hospital.
        models: Candidate to model.
        images: The images.
        known: Those of the same images that were computed before.
    """
    found: dict[str, Floats] = {}
    for name, model in models.items():
        if name in known:
            found[name] = known[name]
        elif isinstance(model, PooledModel):
            found[name] = model.pool(found[OWN], found[JOINT])
        else:
            found[name] = score_model(site, model, images)
    return found


def candidate(site: Site, initial_weights: Weights, memory: SiteMemory, order: RoundOrder) -> Weights:
    """Return the classifier that a site would use now: its own norms, refreshed if the run says so.

    Args:
        site: The hospital.
        initial_weights: Of the federation.
        memory: Its local tensors.
        order: The coordinator's order.

    Raises:
        ModelError: The weights do not fit the site's model.
    """
    load_round(site, initial_weights, memory, order)
    return with_fresh_norms(site)
