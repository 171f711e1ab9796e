"""Training with canaries, and an adversary who sees everything that it releases.

The adversary sees more than a server does: each round's change of the head, and the centre of the features, which stays
at the site. She knows every patient and every canary, but not which canaries are included.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import OF_HEAD
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.privacy.canaries import Canaries, alignment, clipped, gradient_rows, step_weights
from cdtl_core.privacy.partial import fit_part
from cdtl_core.simulation.audit.faults import Turn
from cdtl_core.system.progress import report
from cdtl_core.training.features import Features, feature_views

__all__ = ["Subject", "guess_scores", "head_of", "open_subject", "train", "zeros_of"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """The audited site: features N V D of its training images, and the weights from which every training starts."""

    site: Site
    features: Features
    initial_weights: Weights

    @property
    def fold(self) -> Fold:
        """The site's training images."""
        return self.site.cohort.folds["train"]


def open_subject(site: Site, cache: Path | None = None) -> Subject:
    """Return a site's features under its run's settings.

    Raises:
        ConfigError: The run trains a part of the backbone.
    """
    config = site.config
    if config.dp.stages:
        raise ConfigError(
            f"dp.stages is {config.dp.stages}, but canaries need a frozen backbone: audit with dp.stages 0."
        )
    initial_weights = build_initial_weights(config.model, config.seed, config.image.size)
    load_into(site.model, initial_weights)
    views, change, fold = config.dp.views, config.train.augment, site.cohort.folds["train"]
    features = feature_views(
        site.model, fold, views=views, change=change, seed=config.seed, device=site.device, cache=cache
    )
    return Subject(site, features, initial_weights)


def train(subject: Subject, canaries: Canaries, turns: Iterable[Turn]) -> Iterator[tuple[Turn, Floats]]:
    """Train the site's model on its patients and the included canaries; yield each round's change of the head.

    Args:
        subject: The site; its model is overwritten.
        canaries: Added to its patients.
        turns: The rounds.

    Yields:
        The round, and the change of the head's weights, KD.
    """
    site, model = subject.site, subject.site.model
    fold, features = _joined(subject, canaries)
    load_into(model, {**subject.initial_weights, **zeros_of(model)})
    for turn in turns:
        report(site=site.name, round=turn.epoch + 1)
        before = head_of(model)
        fit_part(
            model, fold, site.config, turn.grant,
            centred=not turn.centres, epoch=turn.epoch, device=site.device, features=features,
            draws=turn.draws,
        )  # fmt: skip
        yield turn, head_of(model) - before


def guess_scores(subject: Subject, canaries: Canaries, heard: Iterable[tuple[Turn, Floats]]) -> Floats:
    """Score how likely each canary is included, M: the sum of all log-likelihood ratios.

    Args:
        subject: The site; its model is read for the centre.
        canaries: M.
        heard: The output of `train`.
    """
    views, invented = subject.features.astype(np.float64), canaries.features.mean(axis=1)
    known = np.concatenate([_by_patient(subject.fold, views[:, 0]), invented])
    config, model, count = subject.site.config, subject.site.model, len(canaries.labels)
    scores, trained = np.zeros(count), []
    for turn, change in heard:
        if turn.centres:
            mean = model.centre.state_dict()["mean"].double().cpu().numpy()
            scores += _centre_scores(mean, known, turn, len(model.levels), count)
        else:
            trained.append((turn, change))
    if not trained:
        return scores
    module: nn.Module = model.centre
    seen = np.concatenate([_by_patient(subject.fold, views.mean(axis=1)), invented])
    centred = module.to("cpu", torch.float64)(torch.from_numpy(seen)).numpy()
    module.float()
    _, first = np.unique(subject.fold.patients, return_index=True)
    labels = np.concatenate([subject.fold.labels[first], canaries.labels])
    rows = gradient_rows(centred, labels, model.head.out_features, config.dp.max_grad_norm)
    release, weight, noise = _total(trained, config)
    return scores + alignment(release, weight * rows, count, noise)


def _total(trained: Sequence[tuple[Turn, Floats]], config: RunConfig) -> tuple[Floats, float, float]:
    """Return the noisy sum of gradients behind the head's changes, how often a patient is in it, and its noise."""
    release, weight, variance = np.zeros_like(trained[0][1]), 0.0, 0.0
    for turn, change in trained:
        claimed = turn.claimed
        weights = step_weights(turn.grant.steps, config.dp.momentum, config.train.ema)
        lr = config.dp.lr / (1 + config.train.lr_decay * turn.epoch)
        release -= change * claimed.expected / lr
        weight += claimed.sample_rate * weights.sum()
        variance += (claimed.noise_multiplier * claimed.max_grad_norm) ** 2 * (weights**2).sum()
    return release, weight, variance**0.5


def _centre_scores(mean: Floats, known: Floats, turn: Turn, levels: int, count: int) -> Floats:
    steps, claimed, longest = turn.grant.steps, turn.claimed, levels**0.5
    rows = clipped(known, longest) * claimed.sample_rate * steps
    return alignment(mean * claimed.expected * steps, rows, count, claimed.noise_multiplier * longest * steps**0.5)


def _joined(subject: Subject, canaries: Canaries) -> tuple[Fold, Features]:
    """Return the site's images and those of the included canaries."""
    fold, here = subject.fold, canaries.present
    images = canaries.features[here].reshape(-1, 1, canaries.features.shape[2])
    each = canaries.features.shape[1]
    views = np.repeat(images, subject.features.shape[1], axis=1).astype(np.float16)
    patients = np.concatenate([fold.patients, fold.patients.max() + 1 + np.repeat(np.arange(here.sum()), each)])
    rows = np.concatenate([fold.rows, np.zeros(len(images), np.int64)])  # pixels are not used
    labels = np.concatenate([fold.labels, np.repeat(canaries.labels[here], each)])
    lengths = np.concatenate([fold.lengths, np.ones(len(images), np.int64)])
    return Fold(fold.pixels, rows, labels, patients, lengths=lengths), np.concatenate([subject.features, views])


def _by_patient(fold: Fold, values: Floats) -> Floats:
    """Return the mean of each patient's rows, in the order of their numbers."""
    _, which, counts = np.unique(fold.of_images(fold.patients), return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), values.shape[1]))
    np.add.at(means, which, values / counts[which, None])
    return means


def zeros_of(model: nn.Module) -> Weights:
    """Return head and centre as at the start of every training."""
    state = model.state_dict()
    return {name: torch.zeros_like(state[name]) for name in state if name.startswith((*OF_HEAD, "centre."))}


def head_of(model: nn.Module) -> Floats:
    """Return the head's weights, KD."""
    return model.get_parameter("head.weight").detach().double().cpu().numpy().reshape(-1)
