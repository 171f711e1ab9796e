"""Our own networks: sizes, gradients, skip connections, the split by type, what a frozen trunk keeps, their cost."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.models.backbones import build_backbone
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.lite0_levels import Lite0Levels
from cdtl_core.models.model import build_classifier, parts_of, set_training
from cdtl_core.models.own_nets import OWN, STAGES
from cdtl_core.models.stages import NORMS, check_division, stages_of
from cdtl_core.models.unet import DeepUNet, PlainCNN, UNet
from cdtl_core.simulation.table.row_tally import cost_of

RANDOM = ("unet", "deepunet", "plain_cnn")


def images(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def twice(before: int, width: int) -> int:
    """Parameters of two convolutions of 3 x 3 with batch norms."""
    return 9 * before * width + 9 * width * width + 4 * width


def wide_then_narrow(before: int, width: int) -> int:
    return 9 * before * 2 * width + 4 * width + 9 * 2 * width * width + 2 * width


@pytest.mark.parametrize(
    ("net", "features", "parameters"),
    [
        (
            UNet(4),
            64 + 4,
            twice(3, 4) + twice(4, 8) + twice(8, 16) + twice(16, 32) + twice(32, 64)
            + sum(4 * 2 * w * w + w + twice(2 * w, w) for w in (4, 8, 16, 32)),
        ),
        (DeepUNet(4, 3), 8, 9 * 3 * 4 + 8 + 3 * wide_then_narrow(4, 4) + 3 * wide_then_narrow(8, 4)),
        (PlainCNN(4, 3), 16, 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16)),
    ],
)  # fmt: skip
def test_features_and_parameters_are_those_counted_by_hand(net: Any, features: int, parameters: int) -> None:
    assert sum(one.numel() for one in net.parameters()) == parameters
    assert net(images(2, 32)).shape == (2, features)
    assert net.num_features == features
    assert net(images(2, 45)).shape == (2, features)  # halved to odd sizes on the way


def test_the_stages_of_cdtls_own_backbones_are_those_that_settings_are_checked_against() -> None:
    assert set(STAGES) == {"efficientnet_lite0", *OWN}
    smallest = 32
    assert {name: len(stages_of(build_backbone(name, smallest).module)) for name in STAGES} == STAGES


@pytest.mark.parametrize("name", RANDOM)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    net = OWN[name].build().train()
    net(images(3, 32)).square().sum().backward()
    still = [key for key, one in net.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    assert still == []


def no_skip(unet: bool) -> Callable[..., Any]:
    """Return an up block's input with zeros instead of the encoder's map."""

    def without(module: Any, given: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        first, second = given
        if unet:
            return first, torch.zeros_like(second)
        return torch.cat([torch.zeros_like(second), first[:, second.shape[1] :]], dim=1), second

    return without


@pytest.mark.parametrize(("net", "depth"), [(UNet(4), 4), (DeepUNet(4, 3), 3)])
def test_each_skip_connection_is_used_by_the_decoder_alone(net: Any, depth: int) -> None:
    torch.manual_seed(0)
    net.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    net.train()  # with the statistics of the batch: those that norms begin with let nearly nothing through
    bottom = net.num_features - 4
    with torch.no_grad():
        whole = net(images(2, 32))
        for level in range(depth):
            hook = net.up[level].register_forward_pre_hook(no_skip(isinstance(net, UNet)))
            cut = net(images(2, 32))
            hook.remove()
            assert cut[:, :bottom].equal(whole[:, :bottom])
            assert (cut[:, bottom:] - whole[:, bottom:]).abs().max() > 1e-3
        assert net(images(2, 32)).equal(whole)


def test_the_plus_of_deepunet_adds_what_a_block_was_given() -> None:
    """With convolutions of zero a down block gives its input back."""
    net = DeepUNet(4, 2).eval()
    block = net.down[0]
    assert isinstance(block.narrow, nn.Conv2d)
    nn.init.zeros_(block.narrow.weight)
    given = images(1, 8)[:, :1].expand(1, 4, 8, 8)
    with torch.no_grad():
        assert block(given, given).equal(given)


@pytest.mark.parametrize("name", RANDOM)
def test_the_split_by_type_keeps_norms_and_shares_the_rest(name: str) -> None:
    model = build_classifier(ModelConfig(backbone=name, weights="random"), 2, 32)
    parts = parts_of(model, freeze=0, share_head=True)
    norms = {key for key, module in model.named_modules() if isinstance(module, NORMS)}
    assert {key.rpartition(".")[0] for key in parts.local} == norms != set()
    assert {"head.weight", "head.bias"} <= set(parts.shared)
    assert set(parts.shared) | set(parts.local) >= {key for key, _ in model.named_parameters()}
    set_training(model, freeze=2)
    frozen = [one for stage in stages_of(model.backbone)[:2] for _, module in stage for one in module.parameters()]
    assert frozen
    assert not any(one.requires_grad for one in frozen)


@pytest.mark.parametrize("name", RANDOM)
def test_networks_without_weights_from_elsewhere_refuse_imagenet(name: str) -> None:
    with pytest.raises(ModelError, match=f"no ImageNet weights for '{name}': set model.weights to 'random'"):
        build_initial_weights(ModelConfig(backbone=name), 0, 32)
    assert build_backbone(name, 32).mean == (0.5, 0.5, 0.5)


def test_the_trunk_of_lite0_levels_has_the_weights_of_lite0() -> None:
    initial_weights, lite0 = (
        build_initial_weights(ModelConfig(backbone=name), 0, 32) for name in ("lite0_levels", "efficientnet_lite0")
    )
    trunk = {key: value for key, value in initial_weights.items() if ".trunk." in key}
    assert len(trunk) > 200
    assert all(value.equal(lite0[key.replace(".trunk.", ".")]) for key, value in trunk.items())
    one, two = (build_initial_weights(ModelConfig(backbone="lite0_levels"), seed, 32) for seed in (1, 2))
    assert {key for key in one if not one[key].equal(two[key])} == {"backbone.hidden.weight", "backbone.hidden.bias"}


def test_lite0_levels_says_the_same_of_an_image_and_its_mirror_image() -> None:
    net = Lite0Levels(sizes=(32, 48), hidden=8).eval()
    with torch.no_grad():
        both = net.trunk(images(2, 40))
        assert both.shape == (2, 2, 2 * 2 * (40 + 80 + 112 + 192))
        lengths = both[0, 0].split([40, 40, 80, 80, 112, 112, 192, 192] * 2)
        torch.testing.assert_close(torch.stack([part.norm() for part in lengths]), torch.ones(16))
        assert not both[:, 0].equal(both[:, 1])
        torch.testing.assert_close(net(images(2, 40)), net(images(2, 40).flip(3)))


def test_a_frozen_trunk_leaves_the_hidden_layer_shared_and_its_norm_local_and_can_be_kept() -> None:
    model = build_classifier(ModelConfig(backbone="lite0_levels", weights="random"), 2, 32)
    parts = parts_of(model, freeze=1, share_head=True)
    assert set(parts.shared) == {"backbone.hidden.weight", "backbone.hidden.bias", "head.weight", "head.bias"}
    assert set(parts.local) == {"backbone.norm.running_mean", "backbone.norm.running_var"}
    set_training(model, freeze=1)
    backbone: Any = model.backbone
    assert backbone.norm.training
    assert not any(module.training for module in backbone.trunk.modules())
    check_division(model.backbone, 1, 32)


def test_multiplications_are_those_counted_by_hand_and_those_published() -> None:
    layer = nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False)
    found = cost_of(layer, 32)
    assert (found.parameters, found.macs) == (600, 600 * 16 * 16)
    lite0 = cost_of(build_classifier(ModelConfig(), 1000, 224), 224)
    assert lite0.parameters == pytest.approx(4.65e6, rel=0.01)
    assert lite0.macs == pytest.approx(407e6, rel=0.06)  # as published: 4.7 M and 407 M
