"""Three networks of convolutions as feature extractors, from random weights.

U-Net and DeepUNet: encoder and decoder, with the spatial means of the maps of both; and a plain stack.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import interpolate

__all__ = ["DeepUNet", "PlainCNN", "UNet"]


class _Block(nn.Module):
    """Two 3 x 3 convolutions, wide then narrow, added to `given`: the paper's plus layer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * width, 3, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(2 * width)
        self.narrow = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.narrow_norm = nn.BatchNorm2d(width)

    def forward(self, images: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """B C H W and B W H W to B W H W."""
        change = self.narrow_norm(self.narrow(self.wide_norm(self.wide(images)).relu()))
        plus: torch.Tensor = (given + change).relu()
        return plus


class DeepUNet(nn.Module):
    """B 3 H W to B D: spatial means of the bottom's map and of the decoder's last map.

    A stem to `width` channels, `depth` down blocks, each followed by a pooling, and as many up blocks, each with the
    map of its size from the way down.

    Source: Li et al. 2018 (DeepUNet, sea-land segmentation). Differs: five blocks each way instead of seven, for images
    of 128 px; a quarter of its 32 channels; batch norm; pooled features in place of a mask.
    """

    def __init__(self, width: int = 8, depth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.down = nn.ModuleList(_Block(width, width) for _ in range(depth))
        self.up = nn.ModuleList(_Block(2 * width, width) for _ in range(depth))
        self.halve = nn.MaxPool2d(2)
        self.num_features = 2 * width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B 3 H W to B D."""
        found = self.stem_norm(self.stem(images)).relu()
        maps = []
        for block in self.down:
            maps.append(block(found, found))
            found = self.halve(maps[-1])
        bottom = found
        for block in self.up:
            skip = maps.pop()
            larger = interpolate(found, size=skip.shape[2:], mode="nearest")
            found = block(torch.cat([skip, larger], dim=1), larger)
        return torch.cat([bottom.mean(dim=(2, 3)), found.mean(dim=(2, 3))], dim=1)


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
