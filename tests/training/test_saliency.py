"""Grad-CAM: the map is bright where the network finds evidence."""

import pytest
import torch

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


def test_a_network_without_feature_maps_has_none() -> None:
    model = build_classifier(ModelConfig(backbone="test_vit", weights="random"), 2, 64)
    assert grad_cam(model, torch.randn(1, 3, 64, 64), 1) is None
