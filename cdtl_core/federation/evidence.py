"""Evidence: predictions of both models for patients that they were not trained on, which set the pool's share.

If only heads are trained, every training patient is evidence. The own head is judged out of fold. The mean of the other
sites' own heads, which were not trained on these patients, replaces the joint head. If whole networks are trained, the
validation patients are the evidence. A pool is then judged in folds, since its share, scale and bias were fitted on
them.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.data.cohort import Fold
from cdtl_core.data.pixels import Pixels
from cdtl_core.data.split import SPLITS
from cdtl_core.federation.contract import own_name
from cdtl_core.federation.donors import DonorShare, donor_shares
from cdtl_core.federation.passes import scores_of
from cdtl_core.federation.pool import Evidence, Pool, Standard, fit_pool, fold_heads, standard_of
from cdtl_core.federation.site import Site
from cdtl_core.models.model import build_feature_classifier
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.training.features import feature_views
from cdtl_core.training.scoring import score
from cdtl_core.training.train import fit

__all__ = ["PooledModel", "donor_heads", "evidence_of", "fit_on_validation", "fold", "mean_of_others", "on_features"]
__all__ += ["out_of_fold", "pool_models"]
__all__ += ["score_model"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_FOLDS, _REPEATS = 5, 2
_HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class PooledModel:
    """The two classifiers of a site and their pool.

    Attributes:
        own: All tensors of the site's own classifier.
        joint: All tensors of the joint classifier.
        pool: How their logits are combined.
        val: Log-probabilities N K of the validation images; if they are the evidence, from pools fitted without their
            patients. None: the pool was not fitted on them.
        parts_val: Log-probabilities N K of the validation images by own and joint classifier, if they are known.
        one: One network that replaces both, see `cdtl_core.federation.one_network`.
        networks_log_loss: Validation log-loss of ``one`` and of ``two`` networks, if they were compared.
        donors: Share of each donor modality, descriptive only; empty if it is not known.
    """

    own: Weights
    joint: Weights
    pool: Pool
    val: Floats | None = None
    parts_val: tuple[Floats, Floats] | None = None
    one: Weights | None = None
    networks_log_loss: Mapping[str, float] = field(default_factory=dict)
    donors: tuple[DonorShare, ...] = ()

    @property
    def tensors(self) -> Weights:
        """All tensors of both, with ``own.`` and ``joint.`` before their names."""
        parts = (("own", self.own), ("joint", self.joint))
        return {f"{part}.{name}": value for part, weights in parts for name, value in weights.items()}


def pool_models(
    site: Site,
    own: Weights,
    joint: Weights,
    others: Weights | None = None,
    donors: Mapping[str, Weights] | None = None,
    *,
    equal: bool = False,
    judge: Callable[[Site], Floats] | None = None,
) -> PooledModel:
    """Pool the site's own and the joint classifier, with the share that the evidence supports.

    Args:
        site: The receiver.
        own: All tensors of its own classifier that its network has.
        joint: All tensors of the joint classifier.
        others: Mean of the other sites' own heads if only heads are trained, which was not trained on this site's
            patients.
            None: the validation patients are the evidence.
        donors: Such means by modality, see `donor_heads`, to compute the share of each.
        equal: Whether the share is 1 regardless of the evidence.
        judge: Returns `out_of_fold` of a site, for studies that repeat it; None computes it.
    """
    train, val = site.cohort.folds["train"], site.cohort.folds["val"]
    seen = scores_of(site, own, train), scores_of(site, joint, train)
    units = standard_of(seen[0], train.patients), standard_of(seen[1], train.patients)
    if equal:
        return PooledModel(own, joint, fit_pool(*units, None))
    if others is None or not site.config.trains_only_heads:
        of_parts = scores_of(site, own, val), scores_of(site, joint, val)
        pool, of_val = fit_on_validation(site, units, of_parts)
        return PooledModel(own, joint, pool, of_val, of_parts)
    heads = site if train.holds_features else on_features(site, own)
    given = {name: value for name, value in own.items() if not name.startswith("backbone.")}
    unseen = (judge or out_of_fold)(heads)

    def judged(head: Weights) -> Floats:
        return scores_of(heads, given | head, heads.cohort.folds["train"])

    pool = fit_pool(*units, evidence_of(unseen, judged(others), train))
    told = {modality: judged(head) for modality, head in (donors or {}).items()}
    shares = donor_shares(unseen, told, train.labels, train.patients, _rng(site, b"donors"))
    return PooledModel(own, joint, pool, donors=shares)


def fit_on_validation(
    site: Site, units: tuple[Standard, Standard], scores: tuple[Floats, Floats]
) -> tuple[Pool, Floats]:
    """Return the pool fitted on the validation patients, and predictions of pools fitted without each patient.

    Args:
        site: The receiver.
        units: Standards of own and joint model over the training images.
        scores: Their log-probabilities N K of the validation images.

    Returns:
        The pool, and log-probabilities N K.
    """
    val = site.cohort.folds["val"]

    def fitted(rows: Ints) -> Pool:
        said = [unit(values[rows]) for unit, values in zip(units, scores, strict=True)]
        return fit_pool(*units, Evidence(said[0], said[1], val.labels[rows], val.patients[rows]))

    found = np.empty((val.num_units, units[0].centre.size))
    part = deal(val.labels, val.patients, _FOLDS, _rng(site, b"validation"))
    for number in np.unique(part):
        held = part == number
        found[held] = fitted(np.flatnonzero(~held))(scores[0][held], scores[1][held])
    return fitted(np.arange(val.num_units)), found


def evidence_of(own: Floats, joint: Floats, fold: Fold) -> Evidence:
    """Return scores at unit spread over these patients, with standards computed on them.

    Args:
        own: Logits of the own model, N K.
        joint: Logits of the joint model, N K.
        fold: The images.
    """
    unit = [standard_of(scores, fold.patients)(scores) for scores in (own, joint)]
    return Evidence(unit[0], unit[1], fold.labels, fold.patients)


def mean_of_others(sums: Mapping[str, tuple[Weights, int]], own: Weights, counted: int) -> Weights | None:
    """Return the mean of the other sites' own heads, weighted by patients; None if there is no other.

    Args:
        sums: Modality to the sum of its sites' heads by shared names, float64, and the patients in it.
        own: The site's own head as it was sent.
        counted: The site's patients in its modality's sum; 0 if it is in none.
    """
    others = sum(count for _, count in sums.values()) - counted
    if others <= 0:
        return None
    mean: Weights = {}
    for name, value in own.items():
        total = sum(
            (one[name] for one, _ in sums.values() if name in one), torch.zeros_like(value, dtype=torch.float64)
        )
        mean[own_name(name)] = (total - counted * value.double()).div(others).float()
    return mean


def donor_heads(
    sums: Mapping[str, tuple[Weights, int]], own: Weights, counted: int, modality: str
) -> dict[str, Weights]:
    """Return modality to the mean of its sites' own heads without the receiver's.

    Args:
        sums: As in `mean_of_others`.
        own: The site's own head as it was sent.
        counted: The site's patients in its modality's sum.
        modality: The site's modality.
    """
    found = {name: mean_of_others({name: one}, own, counted if name == modality else 0) for name, one in sums.items()}
    return {name: head for name, head in found.items() if head is not None}


def fold(model: PooledModel) -> Weights:
    """Return one classifier equal to the pooled model, if both networks differ only in their heads."""
    heads = [[weights[name].double().numpy() for name in _HEAD] for weights in (model.own, model.joint)]
    folded = fold_heads(model.pool, *((weight, bias) for weight, bias in heads))
    return model.own | {name: torch.from_numpy(value).float() for name, value in zip(_HEAD, folded, strict=True)}


def score_model(site: Site, model: Weights | PooledModel, fold: Fold) -> Floats:
    """Return log-probabilities N K of a fold's images.

    Args:
        site: The site.
        model: A classifier's tensors, or a pooled model.
        fold: The images.
    """
    if isinstance(model, PooledModel) and model.one is not None:
        return scores_of(site, model.one, fold)
    if isinstance(model, PooledModel):
        return model.pool(scores_of(site, model.own, fold), scores_of(site, model.joint, fold))
    return scores_of(site, model, fold)


def on_features(site: Site, initial_weights: Weights) -> Site:
    """Return the site with features instead of images, and without a backbone.

    Training and scores equal those of the whole network, at a fraction of the time. Use it with weights without a
    backbone.

    Args:
        site: A site that trains only heads.
        initial_weights: The backbone's weights.
    """
    load_into(site.model, {name: value for name, value in initial_weights.items() if name.startswith("backbone.")})
    pixels, train = site.cohort.folds["train"].pixels, site.config.train
    rows = np.arange(len(pixels))
    features = feature_views(
        site.model,
        Fold(pixels, rows, rows, rows),
        views=train.views,
        change=train.augment,
        seed=train.views_seed,
        device=site.device,
        cache=site.cache,
    )
    folds = {split: replace(site.cohort.folds[split], pixels=cast(Pixels, features)) for split in SPLITS}
    model = build_feature_classifier(site.model, site.config.model)
    return replace(site, cohort=replace(site.cohort, folds=folds), model=model, passes=None)


def out_of_fold(site: Site) -> Floats:
    """Return centred logits N K of the site's own head for each training image, from heads not trained on its patient.

    The training patients are divided into five folds, twice; the scores of both divisions are added.

    Args:
        site: On features.
    """
    train = site.cohort.folds["train"]
    rng = _rng(site, b"out of fold")
    scores = np.zeros((train.num_units, site.model.head.out_features))
    for _ in range(_REPEATS):
        fold = deal(train.labels, train.patients, _FOLDS, rng)
        for number in range(_FOLDS):
            held = np.flatnonzero(fold == number)
            kept = np.flatnonzero(fold != number)
            if len(held) and len(np.unique(train.labels[kept])) > 1:
                _fit_own(site, train.where(kept), rng)
                scores[held] += score(site.model, train.where(held), device=site.device, entry=site.entry)
    return np.asarray(scores - scores.mean(axis=1, keepdims=True), np.float64)


def deal(labels: Ints, patients: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Return a fold for each image, N, the same for all images of a patient; each label is spread over all folds.

    Args:
        labels: Class index, N.
        patients: Number of each image's patient, N.
        folds: Number of folds.
        rng: The only source of randomness.
    """
    names, first, index = np.unique(patients, return_index=True, return_inverse=True)
    fold = np.empty(len(names), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        fold[members] = (np.arange(len(members)) + rng.integers(folds)) % folds
    return np.asarray(fold[index], np.int64)


def _rng(site: Site, purpose: bytes) -> np.random.Generator:
    return np.random.default_rng([site.config.seed, zlib.crc32(site.name.encode()), zlib.crc32(purpose)])


def _fit_own(site: Site, fold: Fold, rng: np.random.Generator) -> None:
    """Train the site's head from zero over all rounds, as in local training."""
    config = site.config
    for value in (*site.model.head.parameters(), *site.model.pooling.parameters()):
        value.data.zero_()
    if config.model.levels:
        from cdtl_core.privacy.partial import set_centre  # imported here: Opacus takes a second to load

        set_centre(site.model, fold, config, device=site.device)
    for epoch in range(config.federation.rounds):
        fit(site.model, fold, config.train, epoch=epoch, rng=rng, device=site.device, entry=site.entry)
