"""Trains the small part of a network that a private run trains, at private and exempt sites."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.draws import SECRET_BYTES, Draws, keyed_draws
from cdtl_core.models.exams import Attention
from cdtl_core.models.model import Classifier, frozen_stages, set_training
from cdtl_core.models.noise import Entropy, kernel_entropy
from cdtl_core.models.stages import NORMS
from cdtl_core.privacy.dp_sgd import fit_private, private_mean
from cdtl_core.privacy.mechanism import Grant, Mechanism, without_noise
from cdtl_core.training.device import CPU, Where, hardware_of
from cdtl_core.training.features import Features, feature_views
from cdtl_core.training.patient_inputs import Examples, patient_exams, patient_images, patient_views

__all__ = ["fit_part", "set_centre"]


def fit_part(
    model: Classifier,
    fold: Fold,
    config: RunConfig,
    grant: Grant,
    *,
    centred: bool,
    epoch: int,
    device: Where,
    cache: Path | None = None,
    features: Features | None = None,
    draws: Draws | None = None,
    entropy: Entropy = kernel_entropy,
) -> tuple[str, ...]:
    """Train head, adapter and the last `dp.stages` in place; return the names of the updated tensors.

    If the whole backbone is frozen, its features are computed once for each image and view.

    Args:
        model: Changed in place, including its centre if it has not been computed yet.
        fold: The training images.
        config: The run's settings.
        grant: Noise and steps, as reserved.
        centred: Whether the model's centre is already the site's own.
        epoch: The round, from 0, for the learning rate.
        device: Where to compute.
        cache: Folder for features.
        features: Features of the fold as `feature_views` gives them, if available.
        draws: Each patient's own random numbers: Poisson sample, images, views, augmentations, dropout. By default
            keyed
            by a new secret from `entropy`, which only this call knows.
        entropy: Source of secret and noise.

    Raises:
        PrivacyError: The network has no per-patient gradients.
    """
    frozen = config.dp.stages == 0
    draws = draws or keyed_draws(entropy(SECRET_BYTES))
    if features is None and (frozen or not centred):
        features = _features(model, fold, config, device, cache)
    steps = grant.steps
    if model.levels and not centred and features is not None and steps:
        spent = min(steps, config.dp.centre_steps)
        _centre(model, features, fold, grant.mechanism, spent, draws, entropy)
        steps -= spent
    set_training(model, freeze=frozen_stages(model, config))
    _hold_norms(model)
    place = hardware_of(device).device
    if frozen and features is not None:
        inputs = patient_views(features, draws)
    else:
        inputs = patient_images(model, fold, config.train.augment, draws)
    if fold.has_several:
        inputs = patient_exams(inputs, fold, config.train.exam_images, draws)
    return fit_private(
        model,
        model.end() if frozen else model,
        Examples(fold.identities, fold.labels, inputs),
        config.dp if frozen else config.dp.model_copy(update={"multiplicity": 1}),
        grant.mechanism,
        steps=steps,
        lr=config.dp.lr / (1 + config.train.lr_decay * epoch),
        ema=config.train.ema,
        draws=draws,
        device=CPU if frozen or place.type == "mps" else place,  # small matrices, and Apple's GPUs lack float64
        entropy=entropy,
        one_by_one=fold.has_several or isinstance(model.pooling, Attention),
    )


def set_centre(model: Classifier, fold: Fold, config: RunConfig, *, device: Where, cache: Path | None = None) -> None:
    """Set the centre to the mean of the site's features, for a run without privacy.

    Args:
        model: Changed in place.
        fold: The training images.
        config: The run's settings.
        device: Where to compute.
        cache: Folder for features.
    """
    if fold.holds_features:
        plain = cast(Features, fold.pixels[fold.rows])
    else:
        plain = feature_views(model, fold, views=0, change=config.train.augment, seed=0, device=device, cache=cache)
    everyone = keyed_draws(bytes(SECRET_BYTES))  # without noise every patient is in
    _centre(model, plain, fold, without_noise(fold.num_patients), 1, everyone, kernel_entropy)


def _hold_norms(model: Classifier) -> None:
    """Keep the affine parameters of layer and group norms: norms stay at the site, and only what leaves is trained."""
    for module in model.backbone.modules():
        if isinstance(module, NORMS):
            module.requires_grad_(False)


def _features(model: Classifier, fold: Fold, config: RunConfig, device: Where, cache: Path | None) -> Features:
    """Return features N V D; only the plain image if the steps use images themselves."""
    views = config.dp.views if config.dp.stages == 0 else 0
    change, seed = config.train.augment, config.seed
    return feature_views(model, fold, views=views, change=change, seed=seed, device=device, cache=cache)


def _centre(
    model: Classifier,
    features: Features,
    fold: Fold,
    mechanism: Mechanism,
    steps: int,
    draws: Draws,
    entropy: Entropy,
) -> None:
    """Return the noisy mean of the site's plain features; P parts of unit length have a total length of sqrt(P)."""
    longest = replace(mechanism, max_grad_norm=model.feature_length)
    plain, patients = features[:, 0].astype(np.float32), fold.of_images(fold.identities)
    means = [private_mean(plain, patients, longest, step=step, draws=draws, entropy=entropy) for step in range(steps)]
    model.centre.load_state_dict({"mean": torch.stack(means).mean(dim=0)})
