"""The sensitivity of the summed gradient is C: one patient changes it by at most C, on every path.

Each pair is a random cohort and the same without one patient, through the real `fit_part`, one step, noise off.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import PrivacyError
from cdtl_core.models.draws import Draws, below, keyed_draws
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.privacy.clipping import Clipping, check_lengths
from cdtl_core.privacy.mechanism import Grant, Mechanism
from cdtl_core.privacy.partial import fit_part
from cdtl_core.simulation.audit.faults import OneSequence
from tests.tables import Tries

CPU, LR = torch.device("cpu"), 1e4
"""So long a step that rounding the new weights to float32 loses nothing of the gradient."""
LIMIT = 1.000001
STATED = ("Sensitivity of a private step is C", "remove one patient of a random cohort")


@dataclass(frozen=True)
class Path:
    """Settings that `dp.enabled` allows; `centred` is False where the step finds the centre of the features."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    dp: dict[str, Any] = field(default_factory=dict)
    classes: int = 2
    rate: float = 1.0
    centred: bool = True
    colour: bool = False
    several: bool = False
    """A patient's units are exams of one to five images, of which a step takes three at most."""

    def config(self, clip: float) -> RunConfig:
        """The run."""
        model = {"backbone": "test_resnet", "weights": "random", "dropout": 0.0, **self.model}
        train = {"exam_images": 3}
        dp = {"enabled": True, "lr": LR, "momentum": 0.0, "max_grad_norm": clip, **self.dp}
        return RunConfig.model_validate(
            {"task": {"unit": "exam"}, "model": model, "dp": dp, "train": train, "image": {"size": 32}}
        )


HEADS = [
    Path("head", dp={"multiplicity": 1}),
    Path("multiplicity", dp={"multiplicity": 3}),
    Path("views", dp={"views": 4}),
    Path("dropout", {"dropout": 0.4}),
    Path("adapter", {"adapter": 3}),
    Path("adapter, dropout", {"adapter": 3, "dropout": 0.2}, {"views": 2}),
    Path("four classes", {"dropout": 0.2}, classes=4),
    Path("Poisson sample", {"dropout": 0.2}, rate=0.5),
    Path("levels", {"levels": [2, 3], "dropout": 0.2}, {"views": 2, "multiplicity": 4}),
    Path("centre", {"levels": [2, 3]}, {"centre_steps": 1}, centred=False),
    Path("centre, Poisson sample", {"levels": [2, 3]}, {"centre_steps": 1}, rate=0.5, centred=False),
    Path("exams", {"dropout": 0.2}, {"views": 2, "multiplicity": 3}, several=True),
    Path("exams, max", {"pooling": "max", "levels": [2, 3]}, {"multiplicity": 1}, several=True),
    Path("exams, log-sum-exp", {"pooling": "lse", "adapter": 3}, several=True, classes=3),
    Path("exams, attention", {"pooling": "attention", "dropout": 0.2}, {"views": 2}, several=True),
    Path("exams, Poisson sample", {"pooling": "attention"}, several=True, rate=0.5),
    Path("exams, centre", {"levels": [2, 3]}, {"centre_steps": 1}, centred=False, several=True),
    Path("attention, one image", {"pooling": "attention", "dropout": 0.2}, {"multiplicity": 2}),
]
STAGES = [
    Path("a stage", dp={"stages": 1}),
    Path("a stage, colour", {"dropout": 0.3}, {"stages": 1}, colour=True),
    Path("two stages, levels", {"levels": [1, 2], "regions": "centre"}, {"stages": 2}, classes=3),
    Path("a stage, Poisson sample", {"adapter": 2}, {"stages": 1}, rate=0.5),
    Path("depthwise", {"backbone": "test_efficientnet"}, {"stages": 3}),
    Path("permuted", {"backbone": "test_convnext"}, {"stages": 2}),
    Path("tokens", {"backbone": "test_vit"}, {"stages": 2}),
    Path("low-rank adapters", {"backbone": "test_vit", "lora": 2}, {"stages": 2}),
    Path("exams, a stage", {"dropout": 0.2}, {"stages": 1}, several=True),
    Path("exams, two stages, attention", {"pooling": "attention"}, {"stages": 2}, several=True, rate=0.7),
]


class Neighbours:
    """Random cohorts on one path, each with and without a patient."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self._rng = path, np.random.default_rng([seed, len(path.name)])
        self._model = network(path)
        self._state = {name: value.clone() for name, value in self._model.state_dict().items()}

    def distances(self, pairs: int, draws: Draws | None = None) -> Iterator[float]:
        """Return the distance of the two sums, in units of C."""
        while pairs > 0:
            fold, features = self._cohort()
            clip = float(self._rng.choice([0.1, 0.5, 1.5]))
            own = draws or keyed_draws(self._rng.bytes(32))
            whole = self._sum(fold, features, clip, own)
            members = np.unique(fold.identities[np.argsort(fold.patients, kind="stable")])
            firsts = [
                fold.identities[fold.patients == number][0] for number in (0, len(members) // 2, len(members) - 1)
            ]
            for who in firsts[:pairs]:
                rest = np.flatnonzero(fold.identities != who)
                part = self._sum(renumbered(fold.where(rest)), features[fold.places(rest)], clip, own)
                yield float((whole - part).norm()) / (self._model.feature_length if not self.path.centred else clip)
            pairs -= len(firsts)

    def _cohort(self) -> tuple[Fold, np.ndarray]:
        """Three to ten patients of one to six units each; colour, where asked for, in the first's images alone."""
        rng = self._rng
        counts = rng.integers(1, 7, size=rng.integers(3, 11))
        patients = np.repeat(np.arange(len(counts)), counts)
        names, units = rng.integers(-(2**62), 2**62, size=len(counts)), len(patients)
        lengths = rng.integers(1, 6, size=units) if self.path.several else np.ones(units, np.int64)
        count = int(lengths.sum())
        pixels = np.repeat(rng.integers(0, 256, (count, 1, 32, 32), np.uint8), 3, axis=1)
        if self.path.colour:
            pixels[0] = rng.integers(0, 256, (3, 32, 32), np.uint8)
        labels = rng.integers(self.path.classes, size=units)
        fold = Fold(pixels, np.arange(count), labels, patients, names[patients], lengths)
        views = 1 + self.path.config(1.0).dp.views
        width = self._model.head.in_features
        features = rng.standard_normal((count, views, width)) * rng.choice([0.02, 0.3, 3.0])
        return fold, features.astype(np.float16)

    def _sum(self, fold: Fold, features: np.ndarray, clip: float, draws: Draws) -> torch.Tensor:
        """The sum of clipped gradients of one step."""
        path, model = self.path, self._model
        model.load_state_dict(self._state)
        mechanism = Mechanism(0.0, path.rate, clip, 1)
        config = path.config(clip)
        channels = 1 if (fold.pixels == fold.pixels[:, :1]).all() else 3  # as a cohort is stored without its colours
        fold = Fold(fold.pixels[:, :channels], *(getattr(fold, name) for name in PARTS))
        names = fit_part(
            model, fold, config, Grant(mechanism, 1), centred=path.centred, epoch=0, device=CPU,
            features=features, draws=draws,
        )  # fmt: skip
        if not path.centred:
            return model.centre.state_dict()["mean"].double() * mechanism.expected
        moved = [
            (value - self._state[name]).double().flatten() for name, value in model.named_parameters() if name in names
        ]
        return torch.cat([value.detach() for value in moved]) * mechanism.expected / LR


PARTS = ("rows", "labels", "patients", "identities", "lengths")


def renumbered(fold: Fold) -> Fold:
    """The cohort as it is read without the patient: rows and numbers move up."""
    _, patients = np.unique(fold.patients, return_inverse=True)
    rows = np.arange(fold.num_images)
    return Fold(fold.pixels[fold.rows], rows, fold.labels, patients, fold.identities, fold.lengths)


def network(path: Path) -> Classifier:
    """Random weights everywhere, so that nothing is symmetric."""
    config = path.config(1.0)
    torch.manual_seed(0)
    model = build_classifier(config.model, path.classes, 32, frozen_norms=True)
    for parameter in [*model.head.parameters(), *model.adapter.parameters(), *model.pooling.parameters()]:
        nn.init.normal_(parameter, std=0.5)
    return model


def longest(path: Path, pairs: int, tries: Tries) -> float:
    """The greatest distance over some pairs."""
    tries.add(pairs)
    return max(Neighbours(path, 0).distances(pairs))


@pytest.mark.attack(*STATED)
@pytest.mark.parametrize("path", [*HEADS, *STAGES], ids=lambda path: path.name)
def test_one_patient_moves_the_sum_by_c_at_most(path: Path, tries: Tries) -> None:
    assert longest(path, 3 if path.dp.get("stages") else 12, tries) <= LIMIT


@pytest.mark.slow
@pytest.mark.attack(*STATED)
@pytest.mark.parametrize("path", [*HEADS, *STAGES], ids=lambda path: path.name)
def test_one_patient_of_two_thousand_cohorts_moves_the_sum_by_c_at_most(path: Path, tries: Tries) -> None:
    distance = longest(path, 60 if path.dp.get("stages") else 171, tries)
    assert 0.9 < distance <= LIMIT  # and the clip is used


@pytest.mark.parametrize("name", ["head", "views", "dropout", "a stage", "Poisson sample", "exams"])
def test_one_sequence_for_all_patients_would_be_found(name: str) -> None:
    (path,) = [path for path in [*HEADS, *STAGES] if path.name == name]
    assert max(Neighbours(path, 0).distances(3 if name == "a stage" else 12, OneSequence(0))) > 1.05


def test_draws_are_a_patients_own() -> None:
    everyone, draws = np.array([5, -3, 2**62]), keyed_draws(bytes(32))
    whole = draws("view", 3, everyone, 40)
    assert (draws("view", 3, everyone[[2, 0]], 40) == whole[[2, 0]]).all()
    others = [
        draws("view", 4, everyone, 40),
        draws("drop", 3, everyone, 40),
        keyed_draws(b"s" * 32)("view", 3, everyone, 40),
    ]
    assert all((other != whole).any(axis=1).all() for other in others)
    limits = np.array([[2], [3], [7]])
    numbers = below(draws, "image", 0, everyone, limits, 4000)
    assert (numbers.min(axis=1) == 0).all()
    assert (numbers.max(axis=1) == limits[:, 0] - 1).all()
    assert numbers.mean(axis=1) == pytest.approx((limits[:, 0] - 1) / 2, rel=0.05)
    with pytest.raises(ValueError, match="5 bytes"):
        keyed_draws(b"short")


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("kind", [GradSampleModuleFastGradientClipping, Clipping])
def test_lengths_that_opacus_gets_wrong_are_refused(
    kind: type[GradSampleModuleFastGradientClipping], size: int
) -> None:
    """It reads channels-last images as if they were not."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    net.register_forward_pre_hook(lambda _net, given: (given[0].to(memory_format=torch.channels_last),))
    batch = torch.zeros(2, 4, size, size), torch.zeros(2)
    expected = nullcontext() if kind is Clipping else pytest.raises(PrivacyError, match="wrong gradient lengths")
    with expected:
        check_lengths(kind(net, loss_reduction="sum"), *batch)  # type: ignore[arg-type]


class _Wild(nn.Module):
    """Draws for a whole batch, out of any module's sight."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(images), 0.1)


def test_a_layer_that_draws_for_a_whole_batch_is_refused() -> None:
    neighbours = Neighbours(STAGES[0], 0)
    neighbours._model.backbone = _Wild(neighbours._model.backbone)
    neighbours._state = neighbours._model.state_dict()
    with pytest.raises(PrivacyError, match="draws random numbers for a whole batch"):
        next(neighbours.distances(1))
