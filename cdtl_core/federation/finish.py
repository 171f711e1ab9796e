"""The end of a run at a site: score the candidates, let the gate choose, calibrate, keep a model that predicts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.federation.gate import ALONE, GateDecision, choose_model
from cdtl_core.federation.site import RoundOrder, Site, SiteMemory, load_round
from cdtl_core.learning.calibration import fit_temperature
from cdtl_core.learning.metrics import log_loss_by_patient
from cdtl_core.learning.train import refresh_norms, score
from cdtl_core.learning.weights import Weights, load_into, take

__all__ = ["ALONE", "Outcome", "candidate", "finish", "with_fresh_norms"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves at a site; none of it is sent but what `cdtl_core.federation.wire` names.

    Attributes:
        weights: All floating-point tensors of the chosen classifier.
        temperature: Divides the logits; None where the site has too few validation patients to calibrate.
        decision: The gate's.
        test: Candidate to log-probabilities N K of the test images.
        val: The same of the validation images.
    """

    weights: Weights
    temperature: float | None
    decision: GateDecision
    test: Mapping[str, Floats]
    val: Mapping[str, Floats]


def finish(
    site: Site, theta0: Weights, memory: SiteMemory, orders: Mapping[str, RoundOrder], alone: Weights | None
) -> Outcome:
    """Choose among the candidate models by the validation patients; the test patients are scored, never used to choose.

    Args:
        site: The hospital.
        theta0: Of the federation.
        memory: The site's norms and local head after its last round.
        orders: ``blended`` and, where it differs, ``unblended``: what the server has for this site's modality.
        alone: The classifier the site trained without anybody, if it has one.

    Raises:
        ModelError: The weights do not fit the site's model.
    """
    candidates = {name: candidate(site, theta0, memory, order) for name, order in orders.items()}
    if alone is not None:
        candidates[ALONE] = alone
    val, test = site.cohort.folds["val"], site.cohort.folds["test"]
    val_scores: dict[str, Floats] = {}
    test_scores: dict[str, Floats] = {}
    for name, weights in candidates.items():
        load_into(site.model, weights)
        val_scores[name] = score(site.model, val, device=site.device, entry=site.entry)
        test_scores[name] = score(site.model, test, device=site.device, entry=site.entry)
    losses = {name: log_loss_by_patient(val.labels, scores, val.patients) for name, scores in val_scores.items()}
    gate = site.config.gate
    decision = choose_model(losses, standard_errors=gate.standard_errors if gate.enabled else None)
    temperature = fit_temperature(val_scores[decision.chosen], val.labels, val.patients)
    return Outcome(candidates[decision.chosen], temperature, decision, test_scores, val_scores)


def candidate(site: Site, theta0: Weights, memory: SiteMemory, order: RoundOrder) -> Weights:
    """The classifier that a site would use of what the server has for it: its own norms, refreshed if the run says so.

    Raises:
        ModelError: The weights do not fit the site's model.
    """
    load_round(site, theta0, memory, order)
    return with_fresh_norms(site)


def with_fresh_norms(site: Site, weights: Weights | None = None) -> Weights:
    """All floating-point tensors of `weights` (default: what the model holds), norms refreshed if the run says so."""
    load_into(site.model, weights or {})
    if site.config.train.refresh_norms and not site.config.dp.enabled:
        train, freeze = site.cohort.folds["train"], site.config.train.freeze
        refresh_norms(site.model, train, freeze=freeze, device=site.device, entry=site.entry)
    state = site.model.state_dict()
    return take(site.model, [name for name, value in state.items() if value.is_floating_point()])
