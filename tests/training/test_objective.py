"""Training objectives against hand numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from cdtl_core.config import ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import build_classifier
from cdtl_core.models.weights import Weights, take
from cdtl_core.training.objective import PLAIN, Mixture, Objective, Proximal, mix_tensors
from cdtl_core.training.train import fit

CPU = torch.device("cpu")


def line(weight: float = 2.0, bias: float = -1.0) -> nn.Linear:
    model = nn.Linear(1, 1)
    model.weight.data.fill_(weight)
    model.bias.data.fill_(bias)
    return model


def fitted(objective: Objective) -> Weights:
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(backbone="test_resnet", weights="random"), 2, 32)
    model.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    fold = Fold(rng.integers(0, 255, (12, 1, 32, 32), np.uint8), np.arange(12), labels, np.arange(12))
    config = TrainConfig(steps=4, batch_size=4, lr=0.01)
    fit(model, fold, config, epoch=0, rng=np.random.default_rng(1), device=CPU, objective=objective)
    return take(model, model.state_dict())


def start() -> Weights:
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(backbone="test_resnet", weights="random"), 2, 32)
    return take(model, [name for name, _ in model.named_parameters()])


def test_the_gradient_of_the_penalty_is_mu_times_the_distance() -> None:
    model, anchor = line(), {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([3.0])}
    penalty = Proximal(0.4, anchor).penalty(model)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert penalty.item() == pytest.approx(0.2 * (1.5**2 + 4.0**2))
    assert model.weight.grad is not None
    assert model.bias.grad is not None
    assert model.weight.grad.item() == pytest.approx(0.4 * 1.5)
    assert model.bias.grad.item() == pytest.approx(0.4 * -4.0)


def test_only_what_the_anchor_names_and_is_trained_is_held() -> None:
    model = line()
    assert Proximal(1.0, {"bias": torch.zeros(1)}).penalty(model).item() == pytest.approx(0.5)
    model.bias.requires_grad_(False)
    assert Proximal(1.0, {"bias": torch.zeros(1)}).penalty(model).item() == 0.0


def test_without_strength_the_penalty_changes_no_bit_and_with_it_the_fit_stays_near() -> None:
    anchor = start()
    plain, none, held = fitted(PLAIN), fitted(Proximal(0.0, anchor)), fitted(Proximal(10.0, anchor))
    assert all(value.equal(none[name]) for name, value in plain.items())
    far, near = (sum(float((end[n] - anchor[n]).square().sum()) for n in anchor) for end in (plain, held))
    assert near < 0.7 * far


def test_a_mixture_is_the_network_of_the_mixed_weights_and_its_gradient_carries_the_share() -> None:
    images, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    own, other = nn.Linear(1, 2), nn.Linear(1, 2)
    mixture = Mixture(0.25, dict(other.named_parameters()))
    whole = nn.Linear(1, 2)
    whole.load_state_dict(mix_tensors(torch.tensor(0.25), dict(own.named_parameters()), mixture.other))
    loss, expected = mixture.loss(own, images, labels, None), PLAIN.loss(whole, images, labels, None)
    assert loss.item() == expected.item()
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    assert own.weight.grad is not None
    assert whole.weight.grad is not None
    assert own.weight.grad.numpy() == pytest.approx(0.25 * whole.weight.grad.numpy())
    assert other.weight.grad is None


def test_a_mixture_of_itself_alone_trains_as_if_it_were_not_there() -> None:
    plain, mixed = fitted(PLAIN), fitted(Mixture(1.0, start()))
    assert all(value.equal(mixed[name]) for name, value in plain.items())
