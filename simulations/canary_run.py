"""Training beside canaries, and the adversary who hears all that it releases.

She hears more than a server does: each round's change of the head, and the centre of the features, which stays at the
site. She knows every patient and every canary, but not which canaries are in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site
from cdtl_core.imaging.cohort import Fold
from cdtl_core.learning.canaries import Canaries, alignment, gradient_rows, step_weights
from cdtl_core.learning.features import Features, feature_views
from cdtl_core.learning.model import build_theta0
from cdtl_core.learning.partial import fit_part
from cdtl_core.learning.weights import Weights, load_into
from cdtl_core.progress import report
from simulations.breakage import Turn

__all__ = ["Subject", "guess_scores", "open_subject", "train"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """Who is audited: a site, the features N V D of its training images, and the weights all training starts from."""

    site: Site
    features: Features
    theta0: Weights

    @property
    def fold(self) -> Fold:
        """The site's training images."""
        return self.site.cohort.folds["train"]


def open_subject(site: Site, cache: Path | None = None) -> Subject:
    """A site's features under its run's settings.

    Raises:
        ConfigError: The run trains a part of the backbone.
    """
    config = site.config
    if config.dp.stages:
        raise ConfigError(
            f"dp.stages is {config.dp.stages}, and canaries are features of a frozen backbone: audit with dp.stages 0."
        )
    theta0 = build_theta0(config.model, config.seed, config.image.size)
    load_into(site.model, theta0)
    views, change, fold = config.dp.views, config.train.augment, site.cohort.folds["train"]
    features = feature_views(
        site.model, fold, views=views, change=change, seed=config.seed, device=site.device, cache=cache
    )
    return Subject(site, features, theta0)


def train(
    subject: Subject, canaries: Canaries, turns: Iterable[Turn], rng: np.random.Generator
) -> Iterator[tuple[Turn, Floats]]:
    """Train the site's model on its patients and the canaries that are in; gives each round's change of the head.

    Args:
        subject: The site; its model is overwritten.
        canaries: Beside its patients.
        turns: The rounds.
        rng: Which view is seen; never the noise.

    Yields:
        The round, and the change of the head, K(D + 1).
    """
    site, model = subject.site, subject.site.model
    fold, features = _joined(subject, canaries)
    start = {f"{part}.{name}": value for part in ("head", "centre") for name, value in _zeros(model, part).items()}
    load_into(model, {**subject.theta0, **start})
    for turn in turns:
        report(site=site.name, round=turn.epoch + 1)
        before = _head(model)
        fit_part(
            model, fold, site.config, turn.grant,
            centred=not turn.centres, epoch=turn.epoch, rng=rng, device=site.device, features=features,
        )  # fmt: skip
        yield turn, _head(model) - before


def guess_scores(subject: Subject, canaries: Canaries, heard: Iterable[tuple[Turn, Floats]]) -> Floats:
    """How likely each canary is in, M: log-likelihood ratios of the centre and of the head's changes, added."""
    plain, labels = _patients(subject)
    known = np.concatenate([plain, canaries.features])
    config, model, count = subject.site.config, subject.site.model, len(canaries.labels)
    scores, release, weight, variance = np.zeros(count), np.zeros(0), 0.0, 0.0
    for turn, change in heard:
        claimed, steps = turn.claimed, turn.grant.steps
        if turn.centres:
            scores = _centre_scores(model.centre.mean.double().cpu().numpy(), known, turn, len(model.levels), count)
            continue
        weights = step_weights(steps, config.dp.momentum, config.train.ema)
        lr = config.dp.lr / (1 + config.train.lr_decay * turn.epoch)
        release = (release if release.size else 0.0) - change * claimed.expected / lr
        weight += claimed.sample_rate * weights.sum()
        variance += (claimed.noise_multiplier * claimed.max_grad_norm) ** 2 * (weights**2).sum()
    if not release.size:
        return scores
    centred = model.centre.to("cpu")(torch.from_numpy(known)).numpy()
    rows = gradient_rows(
        centred, np.concatenate([labels, canaries.labels]), model.head.out_features, config.dp.max_grad_norm
    )
    return scores + alignment(release, weight * rows, count, variance**0.5)


def _centre_scores(mean: Floats, known: Floats, turn: Turn, levels: int, count: int) -> Floats:
    steps, claimed, longest = turn.grant.steps, turn.claimed, levels**0.5
    lengths = np.linalg.norm(known, axis=1, keepdims=True)
    rows = known * np.minimum(1, longest / lengths) * claimed.sample_rate * steps
    noise = claimed.noise_multiplier * longest * steps**0.5
    return alignment(mean * claimed.expected * steps, rows, count, noise)


def _joined(subject: Subject, canaries: Canaries) -> tuple[Fold, Features]:
    """The site's images and, as images of one-image patients, the canaries that are in."""
    fold, here = subject.fold, canaries.present
    count = int(here.sum())
    views = np.repeat(canaries.features[here, None], subject.features.shape[1], axis=1).astype(np.float16)
    patients = np.concatenate([fold.patients, fold.patients.max() + 1 + np.arange(count)])
    rows = np.concatenate([fold.rows, np.zeros(count, np.int64)])  # no pixels are looked at
    labels = np.concatenate([fold.labels, canaries.labels[here]])
    return Fold(fold.pixels, rows, labels, patients), np.concatenate([subject.features, views])


def _patients(subject: Subject) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Mean features and a label of each patient."""
    _, first, which, counts = np.unique(
        subject.fold.patients, return_index=True, return_inverse=True, return_counts=True
    )
    plain = subject.features[:, 0].astype(np.float64)
    means = np.zeros((len(counts), plain.shape[1]))
    np.add.at(means, which, plain / counts[which, None])
    return means, subject.fold.labels[first]


def _zeros(model: torch.nn.Module, part: str) -> Weights:
    return {name: torch.zeros_like(value) for name, value in model.get_submodule(part).state_dict().items()}


def _head(model: torch.nn.Module) -> Floats:
    head = model.get_submodule("head").state_dict()
    return torch.cat([head["weight"], head["bias"][:, None]], dim=1).double().cpu().numpy().reshape(-1)
