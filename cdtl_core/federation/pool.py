"""The pool of own and joint model at a site: equation (10), once, in comparable units.

Each site ends a run with two models: its own model and the joint one. Their logits differ in size: the own head of a
small site is far more certain than a joint head. Therefore each is first scaled to unit spread over the site's own
training images. Then

    logits = bias + scale * (own / s_own + r * joint / s_joint)

r is the share of the joint model relative to the own one: 0 is the own model only, 1 is half and half. It follows from
evidence on patients that neither model was trained on. Without such evidence r is 1, and with little it stays near 1.

The server sees neither the spreads nor r. Of the own model it sees only the head, and only if heads are trained without
privacy (`egress.sends_own_head`).

Source: eq. (10), Inbaraj et al. 2025. Differs: applied once at the receiver, at unit spread; the share follows from
evidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["EQUAL_SHARE", "FEWEST_PATIENTS", "Evidence", "Pool", "Standard", "fit_pool", "fold_heads"]
__all__ += ["fit_shares", "patient_weights", "share_prior", "standard_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FLAT = 1e-6
EQUAL_SHARE = 1.0
FEWEST_PATIENTS = 20
"""With fewer held-out patients the priors of share and scale are narrower."""
_SPREAD = 1.4
"""Standard deviation of the normal prior of r, whose mean is 1; docs/decisions.md explains the value."""
_VAGUE = 4.0
"""Variance of the priors of bias and log scale, almost unconstrained; the scale's is smaller with few patients."""
_SCALE = 0.5
"""Scale that is expected without patients: right for an AUROC of about 0.75; docs/decisions.md."""


@dataclass(frozen=True)
class Standard:
    """Scales a model's logits to unit spread over a site's training images.

    Attributes:
        centre: Mean of the centred logits, K.
        spread: Their standard deviation; for two classes that of the margin. Below 1e-6 the model is flat.
    """

    centre: Floats
    spread: float

    @property
    def is_flat(self) -> bool:
        """Whether the model gives all images the same logits."""
        return self.spread < _FLAT

    def __call__(self, logits: Floats) -> Floats:
        """Return logits or log-probabilities N K, centred over classes, at unit spread; zeros for a flat model."""
        if self.is_flat:
            return np.zeros_like(logits)
        return np.asarray((_centred(logits) - self.centre) / self.spread, np.float64)


@dataclass(frozen=True)
class Evidence:
    """Predictions of both models for patients that they were not trained on, at unit spread.

    Attributes:
        own: N K.
        joint: N K.
        labels: Class index, N.
        patients: Number of each image's patient, N.
    """

    own: Floats
    joint: Floats
    labels: Ints
    patients: Ints

    @property
    def num_patients(self) -> int:
        """Number of patients."""
        return len(np.unique(self.patients))


@dataclass(frozen=True)
class Pool:
    """The pool of a site's two models.

    Attributes:
        own: Standard of the own model.
        joint: Standard of the joint model.
        share: r, 0 or more.
        scale: Multiplies both.
        bias: Added to the logits, K.
        by: What set the share: ``evidence`` or ``equal``.
        num_patients: Held-out patients behind the share; 0 for an equal one.
    """

    own: Standard
    joint: Standard
    share: float
    scale: float
    bias: Floats
    by: str
    num_patients: int

    def __call__(self, own: Floats, joint: Floats) -> Floats:
        """Return log-probabilities N K from both models' logits or log-probabilities N K."""
        from scipy.special import log_softmax

        logits = self.bias + self.scale * (self.own(own) + self.share * self.joint(joint))
        return np.asarray(log_softmax(logits, axis=1), np.float64)


def fold_heads(pool: Pool, own: tuple[Floats, Floats], joint: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return one linear head whose logits equal the pool's, for two heads on the same features.

    Args:
        pool: How they are combined.
        own: Weight K D and bias K of the own head.
        joint: Weight K D and bias K of the joint head.
    """
    weight, bias = np.zeros_like(own[0]), pool.bias.copy()
    for standard, share, head in ((pool.own, 1.0, own), (pool.joint, pool.share, joint)):
        if not standard.is_flat:
            factor = pool.scale * share / standard.spread
            weight += factor * (head[0] - head[0].mean(axis=0))
            bias += factor * (head[1] - head[1].mean()) - pool.scale * share * standard.centre / standard.spread
    return weight, bias


def standard_of(logits: Floats, patients: Ints) -> Standard:
    """Return the standard of a model from its logits N K of the site's training images; all patients have equal weight.

    For two classes the spread is the standard deviation of the margin (the difference of both logits).
    """
    weights = 1 / _images_of_patient(patients)
    weights /= weights.sum()
    values = _centred(logits)
    centre = weights @ values
    variance = 2 / (values.shape[1] - 1) * float(weights @ np.square(values - centre).sum(axis=1))
    return Standard(centre, float(np.sqrt(variance)))


def patient_weights(labels: Ints, patients: Ints, counts: Floats | None = None) -> Floats:
    """Return one weight per image, N, sum 1: equal for all patients, then equal for all classes that occur.

    Args:
        labels: Class index, N.
        patients: Number of each image's patient, N.
        counts: How often each image's patient counts, N, as in a bootstrap resample; None: once.
    """
    weights = (1.0 if counts is None else counts) / _images_of_patient(patients)
    for label in np.unique(labels):
        weights[labels == label] /= weights[labels == label].sum()
    return np.asarray(weights / weights.sum(), np.float64)


def fit_pool(own: Standard, joint: Standard, evidence: Evidence | None) -> Pool:
    """Return the pool with the most probable share r, scale and bias.

    The evidence is the log-loss over held-out patients, with equal weight for all classes. r is never negative and has
    a normal prior around 1 with standard deviation 1.4, or n / 20 of that with n < 20 patients. Scale and bias are then
    fitted with equal weight for all patients, so that probabilities fit the site's own mix of classes; with n < 20
    patients the log scale's prior is narrower and its mean lower, else five patients make a pool sure. Without evidence
    of both classes r is 1, and the scale is the own model's.

    Args:
        own: Standard of the own model.
        joint: Standard of the joint model.
        evidence: Scores of patients that neither model was trained on, or None.
    """
    if evidence is None or len(np.unique(evidence.labels)) < 2:
        return _equal(own, joint)
    share = 0.0 if joint.is_flat else _fit_share(evidence)
    weights = 1 / _images_of_patient(evidence.patients)
    scale, bias = _fit_scale(evidence.own + share * evidence.joint, evidence.labels, weights)
    return Pool(own, joint, share, scale, bias, "evidence", evidence.num_patients)


def _equal(own: Standard, joint: Standard) -> Pool:
    """Return equal shares with the own model's scale and bias, or the joint one's if the own model is flat."""
    share = 0.0 if joint.is_flat else EQUAL_SHARE
    if own.is_flat:
        return Pool(own, joint, share, joint.spread, joint.centre, "equal", 0)
    return Pool(own, joint, share, own.spread / (1 + share), own.centre, "equal", 0)


def share_prior(donors: int, patients: int) -> tuple[float, float]:
    """Return mean and variance of the normal prior of each donor's share; their sum has one prior for any number.

    Fewer than `FEWEST_PATIENTS` patients make it narrower.
    """
    return EQUAL_SHARE / donors, (_SPREAD * min(1.0, patients / FEWEST_PATIENTS)) ** 2 / donors


def fit_shares(
    own: Floats, donors: Sequence[Floats], labels: Ints, weights: Floats, means: Floats, variance: float
) -> Floats:
    """Return the most probable shares r >= 0 of D donors in ``bias + scale * (own + sum of r_d * donor_d)``.

    Minimises the penalised log-loss over log scale, bias (K, kept centred by its prior) and r.

    Args:
        own: Predictions of the own model for patients that it was not trained on, at unit spread, N K.
        donors: Predictions of each donor for them, D of N K.
        labels: Class index, N.
        weights: Weight of each image, N; their sum is the number of patients.
        means: Means of the shares' normal priors, D.
        variance: Variance of each of these priors.
    """
    from scipy.optimize import minimize

    classes = own.shape[1]

    def loss(values: Floats) -> tuple[float, Floats]:
        scale, shares, bias = np.exp(values[0]), values[1 : 1 + len(donors)], values[1 + len(donors) :]
        mixed = own + sum(share * donor for share, donor in zip(shares, donors, strict=True))
        value, slope = _log_loss(bias + scale * mixed, labels, weights)
        value += _prior(values[0], bias) + float(((shares - means) ** 2).sum()) / (2 * variance)
        of_scale = scale * float((slope * mixed).sum()) + values[0] / _VAGUE
        of_shares = [scale * float((slope * donor).sum()) for donor in donors] + (shares - means) / variance
        return value, np.array([of_scale, *of_shares, *(slope.sum(axis=0) + 2 * bias / _VAGUE)])

    start = np.array([0.0, *np.maximum(means, 0.0), *np.zeros(classes)])
    bounds = [(-3, 3), *[(0, None)] * len(donors), *[(None, None)] * classes]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return np.asarray(found[1 : 1 + len(donors)], np.float64)


def _fit_share(evidence: Evidence) -> float:
    """Return the share of the joint model as the only donor."""
    weights = evidence.num_patients * patient_weights(evidence.labels, evidence.patients)
    mean, variance = share_prior(1, evidence.num_patients)
    found = fit_shares(evidence.own, [evidence.joint], evidence.labels, weights, np.array([mean]), variance)
    return float(found[0])


def _fit_scale(mixed: Floats, labels: Ints, weights: Floats) -> tuple[float, Floats]:
    """Return scale and bias with the lowest penalised log-loss.

    Args:
        mixed: Sum of the models' logits, N K.
        labels: Class index, N.
        weights: Weight of each image, N; their sum is the number of patients.
    """
    from scipy.optimize import minimize

    known = min(1.0, float(weights.sum()) / FEWEST_PATIENTS)
    mean, variance = (1 - known) * math.log(_SCALE), _VAGUE * known**2

    def loss(values: Floats) -> tuple[float, Floats]:
        scale, bias = np.exp(values[0]), values[1:]
        value, slope = _log_loss(bias + scale * mixed, labels, weights)
        off = values[0] - mean
        of_scale = scale * float((slope * mixed).sum()) + off / variance
        return value + _prior(off, bias, variance), np.array([of_scale, *(slope.sum(axis=0) + 2 * bias / _VAGUE)])

    bounds = [(-3, 3), *[(None, None)] * mixed.shape[1]]
    found = minimize(loss, np.zeros(1 + mixed.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(np.exp(found[0])), np.asarray(found[1:] - found[1:].mean(), np.float64)


def _prior(log_scale: float, bias: Floats, variance: float = _VAGUE) -> float:
    """Return minus the log of normal priors, of `log_scale` less its mean; for two classes the bias is the margin's."""
    return float(log_scale**2 / (2 * variance) + np.square(bias).sum() / _VAGUE)


def _log_loss(logits: Floats, labels: Ints, weights: Floats) -> tuple[float, Floats]:
    """Return the weighted log-loss and its gradient with respect to the logits, N K.

    Args:
        logits: N K.
        labels: Class index, N.
        weights: Weight of each image, N.
    """
    from scipy.special import log_softmax

    log_probabilities = log_softmax(logits, axis=1)
    rows = np.arange(len(labels))
    slope = np.exp(log_probabilities)
    slope[rows, labels] -= 1
    slope *= weights[:, None]
    return float(-(weights * log_probabilities[rows, labels]).sum()), slope


def _centred(logits: Floats) -> Floats:
    return np.asarray(logits - logits.mean(axis=1, keepdims=True), np.float64)


def _images_of_patient(patients: Ints) -> Floats:
    _, index, count = np.unique(patients, return_inverse=True, return_counts=True)
    return np.asarray(count[index], np.float64)
