"""Training the small part of a network that a private run trains, at private and exempt sites alike."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.draws import SECRET_BYTES, Draws, keyed_draws
from cdtl_core.models.model import Classifier, frozen_stages, set_training
from cdtl_core.models.noise import Entropy, kernel_entropy
from cdtl_core.privacy.dp_sgd import Examples, fit_private, private_mean
from cdtl_core.privacy.mechanism import Grant, Mechanism, without_noise
from cdtl_core.training.features import Features, feature_views
from cdtl_core.training.inputs import patient_images, patient_views

__all__ = ["fit_part", "set_centre"]


def fit_part(
    model: Classifier,
    fold: Fold,
    config: RunConfig,
    grant: Grant,
    *,
    centred: bool,
    epoch: int,
    device: torch.device,
    cache: Path | None = None,
    features: Features | None = None,
    draws: Draws | None = None,
    entropy: Entropy = kernel_entropy,
) -> tuple[str, ...]:
    """Train head, adapter and the last `dp.stages` in place; returns the names of what the steps updated.

    Where the whole backbone is frozen, its features are computed once for each image and view.

    Args:
        model: Changed in place; also its centre, if it has not been computed yet.
        fold: The training images.
        config: Of the run.
        grant: Noise and steps, as reserved.
        centred: Whether the model's centre is the site's own already.
        epoch: The round, from 0, for the learning rate.
        device: Where to compute.
        cache: Folder to keep features in.
        features: Of the fold's images as `feature_views` gives them, if they are at hand.
        draws: Each patient's own random numbers: whether she is in a step, images, views, augmentations, dropout. If
            not given, those of a new secret of `entropy`, which is known to this call alone.
        entropy: Where secret and noise come from.

    Raises:
        PrivacyError: The network cannot be trained patient by patient.
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
    if frozen and features is not None:
        inputs = patient_views(features, draws)
    else:
        inputs = patient_images(model, fold, config.train.augment, draws)
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
        device=torch.device("cpu") if device.type == "mps" else device,
        entropy=entropy,
    )


def set_centre(
    model: Classifier, fold: Fold, config: RunConfig, *, device: torch.device, cache: Path | None = None
) -> None:
    """The mean of the site's features as they are, for a run without privacy."""
    if fold.holds_features:
        plain = cast(Features, fold.pixels[fold.rows])
    else:
        plain = feature_views(model, fold, views=0, change=config.train.augment, seed=0, device=device, cache=cache)
    everyone = keyed_draws(bytes(SECRET_BYTES))  # without noise all are in
    _centre(model, plain, fold, without_noise(fold.num_patients), 1, everyone, kernel_entropy)


def _features(model: Classifier, fold: Fold, config: RunConfig, device: torch.device, cache: Path | None) -> Features:
    """N V D; the plain image alone where the steps see images themselves."""
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
    """The site's own mean of plain features, as private as so many steps; P parts of unit length have sqrt(P)."""
    longest = replace(mechanism, max_grad_norm=model.feature_length)
    plain = features[:, 0].astype(np.float32)
    means = [
        private_mean(plain, fold.identities, longest, step=step, draws=draws, entropy=entropy) for step in range(steps)
    ]
    model.centre.load_state_dict({"mean": torch.stack(means).mean(dim=0)})
