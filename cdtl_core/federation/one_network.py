"""One network between a site's own and the joint one, for predictions and files at half the cost of two.

Both start from the same weights, so a network between them may predict as their pool does. Whether it does depends on
the images. Therefore validation patients decide, and two networks stay if they are too few or find the single one
worse.
"""

from dataclasses import replace

import numpy as np

from cdtl_core.federation.evidence import PooledModel, fit_on_validation, fold, score_model
from cdtl_core.federation.model_selection import FEWEST_PATIENTS
from cdtl_core.federation.passes import scores_of
from cdtl_core.federation.pool import Standard, standard_of
from cdtl_core.federation.site import Site, with_fresh_norms
from cdtl_core.metrics.metrics import log_loss_by_patient
from cdtl_core.models.weights import Weights

__all__ = ["between", "differ_in_heads_only", "with_one_network"]


def differ_in_heads_only(model: PooledModel) -> bool:
    """Whether all tensors but the heads' are equal, so that both heads fold into one."""
    return all(model.own[name].equal(value) for name, value in model.joint.items() if not name.startswith("head."))


def between(model: PooledModel) -> Weights:
    """Return tensors between those of both networks, own to joint as 1 to the pool's share; heads at unit spread.

    Statistics of norms are averages and not valid for the mixture: refresh them.
    """
    share = model.pool.share / (1 + model.pool.share)
    parts = (model.own, model.pool.own.spread), (model.joint, model.pool.joint.spread)
    own, joint = (
        {name: value / spread if name.startswith("head.") else value for name, value in weights.items()}
        for weights, spread in parts
    )
    return {name: value.lerp(joint[name], share) for name, value in own.items()}


def with_one_network(site: Site, model: PooledModel) -> PooledModel:
    """Return the pool with one network instead of two, if at least 20 validation patients find it no worse.

    Its scale and bias are fitted on the validation patients, as those of the pool. Both are judged by their log-loss on
    patients left out of the fit. With `pool.networks` = ``two`` it is not tried.

    Args:
        site: The receiver.
        model: Its two networks, pooled.

    Raises:
        ModelError: The weights do not fit the site's model.
    """
    pool, train, val = model.pool, site.cohort.folds["train"], site.cohort.folds["val"]
    few = val.num_patients < FEWEST_PATIENTS or len(np.unique(val.labels)) < 2
    if site.config.pool.networks == "two" or few or pool.own.is_flat or pool.joint.is_flat:
        return model
    by_two = score_model(site, model, val) if model.val is None else model.val
    middle = with_fresh_norms(site, between(model))
    seen, said = (scores_of(site, middle, part) for part in (train, val))
    unit, nothing = standard_of(seen, train.patients), Standard(np.zeros(seen.shape[1]), 0.0)
    fitted, of_val = fit_on_validation(site, (unit, nothing), (said, np.zeros_like(said)))
    two, one = (float(log_loss_by_patient(val.labels, found, val.patients).mean()) for found in (by_two, of_val))
    losses = {"one": one, "two": two}
    if unit.is_flat or one > two:
        return replace(model, networks_log_loss=losses)
    single = fold(PooledModel(middle, middle, fitted))
    return replace(model, one=single, val=of_val, networks_log_loss=losses)
