"""A minimal backbone for tests of everything around a network, in this process only.

A process that a test starts does not know it: there the cheapest is timm's ``test_efficientnet``.
"""

from typing import Any

import torch
from timm.models import register_model
from torch import nn

__all__ = ["STUB", "TINY_SETTINGS", "phantom_sites", "stub_net"]

STUB = "stub_net"
TINY_SETTINGS = f"""
name = "tiny"
[image]
size = 32
[model]
backbone = "{STUB}"
weights = "random"
[train]
steps = 1
batch_size = 4
[federation]
rounds = 2
[blend]
settle = 1
"""
"""Settings of a run of seconds as TOML; a test adds its sites."""


def phantom_sites(patients: int = 12, **modalities: str) -> str:
    """Return sites of synthetic images as TOML, given as name=modality; none: alba and como, of two modalities."""
    given = modalities or {"alba": "ultrasound", "como": "histology"}
    head, data = '[[sites]]\nsite = "{}"\nmodality = "{}"\n', f"data.phantom = {{ patients = {patients} }}\n"
    return "\n" + "".join(head.format(*one) + data for one in given.items())


class _Stub(nn.Module):
    """B 3 H W to B 32 in four stages, with norms and their statistics; modules are named as timm names them."""

    num_features = 32
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(_block(8, 8), _block(8, 16))
        self.conv_head, self.bn2 = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.act, self.end = nn.ReLU(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.blocks(self.act(self.bn1(self.conv_stem(images))))
        features: torch.Tensor = self.end(self.act(self.bn2(self.conv_head(inside))))
        return features


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


@register_model
def stub_net(**_: Any) -> nn.Module:
    """The function that timm calls for this name."""
    return _Stub()
