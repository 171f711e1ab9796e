"""Texture features of four middle stages of EfficientNet-Lite0 at two image sizes and mirrored, and a hidden layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate, normalize

from cdtl_core.models.libraries import timm

__all__ = ["Lite0Levels", "Lite0Trunk"]

_BLOCKS = range(2, 6)
"""Groups of blocks, counted from 0 of 7, whose outputs are used: 40, 80, 112 and 192 channels."""


class Lite0Trunk(nn.Module):
    """Stem and six groups of blocks of EfficientNet-Lite0: B 3 H W to B 2 D, for each image and its mirror image.

    Each image is resized to every one of `sizes`. The features of a group of blocks are the mean and the standard
    deviation of each channel over the pixels, each scaled to unit length.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        whole: Any = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        self.sizes = tuple(sizes)
        self.conv_stem: nn.Module = whole.conv_stem
        self.bn1: nn.Module = whole.bn1
        self.blocks: nn.Sequential = whole.blocks[: _BLOCKS.stop]
        self.num_features = 2 * len(sizes) * sum(whole.blocks[index][-1].bn3.num_features for index in _BLOCKS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B 3 H W to B 2 D."""
        return torch.stack([self._texture(images), self._texture(images.flip(3))], dim=1)

    def _texture(self, images: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for size in self.sizes:
            maps = self.bn1(self.conv_stem(_of_size(images, size)))
            for index, block in enumerate(self.blocks):
                maps = block(maps)
                if index in _BLOCKS:
                    variance, mean = torch.var_mean(maps.flatten(2), dim=2, correction=0)
                    found += [normalize(mean, dim=1), normalize((variance + 1e-8).sqrt(), dim=1)]
        return torch.cat(found, dim=1)


class Lite0Levels(nn.Module):
    """B 3 H W to B 64: a trunk that stays frozen (`train.freeze` 1), a norm, and a hidden layer.

    The hidden layer sees the image and its mirror image separately and returns their mean: a label does not depend on
    left and right. The norm has no weights. Like those of every norm, its statistics belong to the site.

    Source: features of several depths of a frozen network as in Sermanet et al. 2013 and Mukundan et al. 2017; mean and
    standard deviation of channels as texture as in Huang and Belongie 2017. The combination is ours.
    """

    def __init__(self, sizes: Sequence[int] = (128, 224), hidden: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        self.trunk = Lite0Trunk(sizes)
        # placed before the norm, so that the norm belongs to the second stage, which is trained
        self.hidden = nn.Linear(self.trunk.num_features, hidden)
        self.norm = nn.BatchNorm1d(self.trunk.num_features, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.num_features = hidden

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B 3 H W to B 64."""
        both = self.trunk(images)
        normed = self.norm(both.flatten(0, 1))
        seen: torch.Tensor = gelu(self.hidden(self.dropout(normed)))
        return seen.reshape(*both.shape[:2], -1).mean(dim=1)


def _of_size(images: torch.Tensor, size: int) -> torch.Tensor:
    if images.shape[2:] == (size, size):
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
