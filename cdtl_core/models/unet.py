"""Two networks of convolutions as feature extractors, from random weights.

U-Net: encoder and decoder, with the spatial means of the last map of both; and a plain stack.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import interpolate

__all__ = ["PlainCNN", "UNet"]


class _Convolutions(nn.Sequential):
    """Two blocks of 3 x 3 convolution, batch norm and ReLU: B C H W to B C' H W."""

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for before in (channels, width):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class _Up(nn.Module):
    """Double the size by a transposed convolution, add the encoder's map of that size, then two convolutions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.larger = nn.ConvTranspose2d(channels, width, 2, stride=2)
        self.convolutions = _Convolutions(2 * width, width)

    def forward(self, images: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """B C h w and the encoder's B W H W to B W H W."""
        larger = self.larger(images)
        if larger.shape[2:] != skip.shape[2:]:  # an odd size was halved
            larger = interpolate(larger, size=skip.shape[2:], mode="nearest")
        joined: torch.Tensor = self.convolutions(torch.cat([skip, larger], dim=1))
        return joined


class UNet(nn.Module):
    """B 3 H W to B D: spatial means of the bottom's map and of the decoder's last map.

    Five levels of `width` to 16 `width` channels. The bottom is included because a mask's few channels carry too little
    for a classifier.

    Source: Ronneberger et al. 2015. Differs: padded convolutions, batch norm, an eighth of its 64 channels, pooled
    features in place of a mask.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            _Convolutions(before, after) for before, after in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(_Up(widths[level + 1], widths[level]) for level in reversed(range(4)))
        self.halve = nn.MaxPool2d(2)
        self.num_features = widths[-1] + widths[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B 3 H W to B D."""
        maps = [self.down[0](images)]
        for block in list(self.down)[1:]:
            maps.append(block(self.halve(maps[-1])))
        found = bottom = maps.pop()
        for block in self.up:
            found = block(found, maps.pop())
        return torch.cat([bottom.mean(dim=(2, 3)), found.mean(dim=(2, 3))], dim=1)


class PlainCNN(nn.Sequential):
    """B 3 H W to B D: 3 x 3 convolutions with batch norm and ReLU, each halving the size, then the spatial mean.

    Source: the usual form since LeCun et al. 1998; Inbaraj et al. 2025 print neither depth nor width of theirs.
    """

    def __init__(self, width: int = 16, depth: int = 5) -> None:
        widths = [3, *(width * 2**level for level in range(depth))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = widths[-1]
