"""Pooling over the images of an exam: hand numbers, an exam at a time as reference, and what must not matter."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from cdtl_core.config import ModelConfig, Pooling
from cdtl_core.models.exams import Attention, ExamPooling, Exams, image_weights, pooling_of
from cdtl_core.models.model import Classifier, build_classifier, parts_of

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
FEATURES = torch.tensor([[1.0, 4.0], [3.0, 2.0], [-1.0, 0.5]])
EXAMS = Exams(FEATURES, (2, 1))


def trained(name: Pooling, num_features: int = 6) -> ExamPooling:
    """A pooling whose parameters are not at their start."""
    torch.manual_seed(0)
    pooling = pooling_of(name, num_features)
    for parameter in pooling.parameters():
        nn.init.normal_(parameter, std=0.7)
    return pooling


def drawn(lengths: tuple[int, ...], num_features: int = 6) -> Exams:
    generator = torch.Generator().manual_seed(sum(lengths))
    return Exams(torch.randn(sum(lengths), num_features, generator=generator), lengths)


def alone(pooling: ExamPooling, exams: Exams) -> list[torch.Tensor]:
    """Each exam's pooled features, written out for a single exam."""
    found = []
    for images in exams.images.split(list(exams.lengths)):
        if isinstance(pooling, Attention):
            seen = images / images.norm(dim=1, keepdim=True)
            content = torch.tanh(seen @ (pooling.content.weight + pooling.content_start).T + pooling.content.bias)
            gate = torch.sigmoid(seen @ (pooling.gate.weight + pooling.gate_start).T + pooling.gate.bias)
            weights = torch.softmax((content * gate) @ pooling.score.weight[0], dim=0)
            found.append(weights @ images)
        elif type(pooling) is ExamPooling:
            found.append(images.mean(dim=0))
        elif "Max" in type(pooling).__name__:
            found.append(images.amax(dim=0))
        else:
            found.append((torch.logsumexp(8 * images, dim=0) - np.log(len(images))) / 8)
    return found


@pytest.mark.parametrize(
    ("name", "pooled", "weights"),
    [
        ("mean", [[2.0, 3.0], [-1.0, 0.5]], [0.5, 0.5, 1.0]),
        ("max", [[3.0, 4.0], [-1.0, 0.5]], [0.5, 0.5, 1.0]),  # each image wins one of two features
        ("attention", [[2.0, 3.0], [-1.0, 0.5]], [0.5, 0.5, 1.0]),  # at its start all images count equally
        ("lse", [[3 - np.log(2) / 8, 4 - np.log(2) / 8], [-1.0, 0.5]], [0.5, 0.5, 1.0]),
    ],
)
def test_hand_numbers(name: Pooling, pooled: list[list[float]], weights: list[float]) -> None:
    pooling = pooling_of(name, 2)
    assert pooling(EXAMS).tolist() == [pytest.approx(row, abs=1e-6) for row in pooled]
    assert image_weights(pooling, EXAMS).tolist() == pytest.approx(weights, abs=1e-6)


def test_the_weights_of_a_maximum_and_a_log_sum_exp_name_the_image_that_decides() -> None:
    exam = Exams(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]), (3,))
    assert image_weights(pooling_of("max", 2), exam).tolist() == [0.0, 1.0, 0.0]
    soft = image_weights(pooling_of("lse", 2), exam)
    assert soft.tolist() == pytest.approx(torch.softmax(torch.tensor([0.0, 8.0, 4.0]), 0).tolist())


@pytest.mark.parametrize("name", POOLINGS)
def test_each_exam_is_pooled_as_if_it_were_alone_and_so_are_the_gradients(name: Pooling) -> None:
    pooling, exams = trained(name), drawn((3, 1, 5, 2))
    exams.images.requires_grad_()
    torch.testing.assert_close(pooling(exams), torch.stack(alone(pooling, exams)))
    factors = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    wanted = [exams.images, *pooling.parameters()]
    together = torch.autograd.grad((pooling(exams) * factors).sum(), wanted)
    single = torch.autograd.grad((torch.stack(alone(pooling, exams)) * factors).sum(), wanted)
    for one, other in zip(together, single, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_neither_the_order_of_images_nor_other_exams_matter(name: Pooling) -> None:
    pooling, exams = trained(name), drawn((4, 3))
    order = [2, 0, 3, 1, 6, 4, 5]
    torch.testing.assert_close(pooling(Exams(exams.images[order], (4, 3))), pooling(exams))
    torch.testing.assert_close(pooling(exams[1:]), pooling(exams)[1:])
    torch.testing.assert_close(
        image_weights(pooling, exams)[order], image_weights(pooling, Exams(exams.images[order], (4, 3)))
    )


@pytest.mark.parametrize("name", POOLINGS)
def test_one_image_stays_itself_to_the_last_bit_and_has_the_weight_one(name: Pooling) -> None:
    pooling, exams = trained(name), drawn((1, 1, 1))
    exams.images.requires_grad_()
    assert pooling(exams).equal(exams.images)
    slopes = torch.autograd.grad(pooling(exams), exams.images, 3 * exams.images.detach())[0]
    assert slopes.equal(3 * exams.images)
    assert image_weights(pooling, exams).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", POOLINGS)
def test_weights_sum_to_one_and_give_the_pooled_features(name: Pooling) -> None:
    pooling, exams = trained(name), drawn((7, 2, 4))
    weights = pooling.weights(exams)
    torch.testing.assert_close(exams.total(image_weights(pooling, exams)), torch.ones(3))
    if name == "lse":  # there they are those of its gradient
        images = exams.images.clone().requires_grad_()
        slopes = torch.autograd.grad(pooling(Exams(images, exams.lengths)).sum(), images)[0]
        torch.testing.assert_close(slopes, weights)
    else:
        torch.testing.assert_close(exams.total(weights * exams.images), pooling(exams))


def test_batches_of_exams_are_sliced_as_images_are() -> None:
    exams = drawn((3, 1, 2))
    assert len(exams) == 3
    assert exams[1:].lengths == (1, 2)
    assert torch.cat([exams[start : start + 1].images for start in range(3)]).equal(exams.images)
    assert exams[3:].images.shape == (0, 6)


def network(pooling: Pooling, **more: object) -> Classifier:
    """A network with random weights everywhere."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"backbone": "test_efficientnet", "weights": "random", "dropout": 0.0, "pooling": pooling, **more}
    )
    model = build_classifier(config, 2, 32).eval()
    for parameter in [*model.head.parameters(), *model.pooling.parameters(), *model.adapter.parameters()]:
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("more", [{}, {"levels": [2, 4], "adapter": 3}], ids=["plain", "levels and adapter"])
@pytest.mark.parametrize("name", POOLINGS)
def test_a_network_pools_behind_centre_and_adapter(name: Pooling, more: dict[str, object]) -> None:
    model = network(name, **more)
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = model(Exams(images, (2, 3)))
        features = model.adapter(model.centre(model.features(images)))
        pooled = model.pooling(Exams(features, (2, 3)))
    torch.testing.assert_close(found, model.head(pooled), rtol=1e-4, atol=1e-5)


def test_without_exams_every_pooling_is_the_same_network_bit_for_bit() -> None:
    images = torch.rand(6, 3, 32, 32)
    found = {}
    for name in POOLINGS:
        model = network(name)
        model.load_state_dict(network("mean").state_dict(), strict=False)
        with torch.no_grad():
            found[name] = model(images)
            assert model(Exams(images, (1,) * 6)).equal(found[name])
    assert all(one.equal(other) for one, other in itertools.pairwise(found.values()))


def test_attention_is_shared_or_local_as_the_head_is() -> None:
    model = network("attention")
    attention = {f"pooling.{name}" for name, _ in model.pooling.named_parameters()}
    assert len(attention) == 5
    shared = parts_of(model, freeze=0, share_head=True)
    local = parts_of(model, freeze=0, share_head=False)
    assert attention <= set(shared.shared)
    assert not attention & set(shared.local)
    assert attention <= set(local.local)
    assert not attention & set(local.shared)
    assert not any(name.startswith("pooling.") for name in parts_of(network("max"), freeze=0, share_head=True).shared)


def test_attention_starts_from_the_same_constants_everywhere() -> None:
    torch.manual_seed(1)
    one = pooling_of("attention", 5)
    torch.manual_seed(2)
    other = pooling_of("attention", 5)
    assert isinstance(one, Attention)
    assert isinstance(other, Attention)
    assert one.content_start.equal(other.content_start)
    assert not one.content_start.equal(one.gate_start)
    assert one.content_start[0, :3].tolist() == pytest.approx(FIRST, abs=1e-6)  # files hold what was added to them
    assert float(one.content_start.std()) == pytest.approx(1, abs=0.1)
    assert not any(parameter.any() for parameter in one.parameters())


FIRST = [-1.4482027, 1.4373699, -0.7242140]
