"""Grad-CAM: the map is bright where the network finds evidence."""

from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from cdtl_core.config import ModelConfig
from cdtl_core.models.model import build_classifier
from cdtl_core.training.saliency import grad_cam


@pytest.mark.parametrize("levels", [(), (2, 4)])
def test_a_map_has_the_images_size_and_changes_nothing(levels: tuple[int, ...]) -> None:
    model = build_classifier(ModelConfig(backbone="test_efficientnet", weights="random", levels=levels), 2, 64)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heat = grad_cam(model, torch.randn(3, 3, 64, 64), 1)
    assert heat is not None
    assert heat.shape == (3, 64, 64)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert heat.amax(dim=(1, 2)).max() == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_map_follows_what_is_in_the_image() -> None:
    """A network whose map is the image's brightness itself: bright where the blob is, by construction."""
    model = build_classifier(ModelConfig(backbone="test_efficientnet", weights="random"), 2, 64)
    torch.manual_seed(0)

    class Looking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small = torch.nn.Conv2d(3, 3, 8, stride=8, groups=3, bias=False)
            self.same = torch.nn.BatchNorm2d(3)
            torch.nn.init.constant_(self.small.weight, 1 / 64)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.same(self.small(images)).mean(dim=(2, 3))

    model.backbone = Looking()
    model.head = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 8:24, 40:56] = 1
    heat = grad_cam(model, images, 1)
    assert heat is not None
    assert heat[0, 8:24, 40:56].mean() > 0.6
    assert heat[0, 40:, :32].max() == 0
    other = grad_cam(model, images, 0)
    assert other is not None
    assert other.max() == 0  # nothing in it speaks for the other label


@pytest.mark.parametrize("levels", [(), (2, 5)])
def test_the_map_of_a_vision_transformer_lies_over_its_patches(levels: tuple[int, ...]) -> None:
    config = ModelConfig(backbone="test_vit", weights="random", levels=levels)
    model = build_classifier(config, 2, 128)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    outputs: list[torch.Tensor] = []
    blocks: Any = model.backbone.blocks
    block = blocks[3 if levels else -2]  # stage 5; the class token takes nothing from patches after the last block
    hook = block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    images = torch.randn(2, 3, 128, 128)
    said = model.eval()(images).log_softmax(1)[:, 1].sum()
    (slope,) = torch.autograd.grad(said, outputs)
    hook.remove()
    each = (slope[:, 1:].mean(dim=1, keepdim=True) * outputs[0][:, 1:]).sum(dim=2).clamp(min=0)
    wanted = interpolate(each.reshape(2, 1, 8, 8).detach(), size=(128, 128), mode="bilinear")[:, 0]
    heat = grad_cam(model, images, 1)
    assert heat is not None
    torch.testing.assert_close(heat, wanted / wanted.amax(dim=(1, 2), keepdim=True))


def test_a_network_without_feature_maps_has_none() -> None:
    model = build_classifier(ModelConfig(backbone="test_vit", weights="random"), 2, 64)
    assert grad_cam(model, torch.randn(1, 3, 64, 64), 1) is None
