"""The split of a classifier, by type and independent of names."""

import pytest
import torch
from torch import nn

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.models.model import Classifier, build_classifier, parts_of, set_training


def classifier(backbone: str = "test_efficientnet") -> Classifier:
    return build_classifier(ModelConfig(backbone=backbone, weights="random"), 2, 64)


@pytest.mark.parametrize(
    "backbone", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext", "resnet18", "efficientnet_lite0"]
)
def test_every_norm_tensor_is_local_and_every_other_weight_shared(backbone: str) -> None:
    model = classifier(backbone)
    parts = parts_of(model, freeze=0, share_head=True)
    in_norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, value in module.state_dict().items()
    }
    assert in_norms
    assert set(parts.shared) == {name for name, _ in model.named_parameters()} - in_norms
    assert set(parts.local) == {name for name in in_norms if "num_batches" not in name}


def test_a_batch_norm_without_bn_in_its_name_is_local() -> None:
    local = parts_of(classifier("resnet18"), freeze=0, share_head=True).local
    assert "backbone.layer2.0.downsample.1.running_mean" in local


def test_a_head_is_shared_or_local() -> None:
    model = classifier()
    assert set(parts_of(model, freeze=0, share_head=True).shared) >= {"head.weight", "head.bias"}
    assert set(parts_of(model, freeze=0, share_head=False).local) >= {"head.weight", "head.bias"}


def test_freezing_more_stages_leaves_fewer_tensors_until_only_the_head_is_left() -> None:
    model = classifier("efficientnet_lite0")
    sizes = [len(parts_of(model, freeze=k, share_head=True).shared) for k in range(10)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert parts_of(model, freeze=9, share_head=True).shared == ("head.weight", "head.bias")
    with pytest.raises(ModelError, match="has 9 stages"):
        parts_of(model, freeze=10, share_head=True)


def test_frozen_stages_get_no_gradient_and_their_norms_do_not_move() -> None:
    model = classifier()
    set_training(model, freeze=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    after = model.state_dict()
    moved = {name for name in before if not before[name].equal(after[name])}
    assert "backbone.bn2.running_mean" in moved
    assert not any(name.startswith(("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0")) for name in moved)
    assert model.backbone.get_parameter("conv_stem.weight").grad is None
    assert isinstance(model.backbone, nn.Module)


def test_a_fresh_head_is_zero() -> None:
    assert classifier()(torch.randn(2, 3, 32, 32)).abs().max() == 0
