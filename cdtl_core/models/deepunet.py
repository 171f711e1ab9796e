"""DeepUNet as a feature extractor: blocks of equal width with residual connections."""

import torch
from torch import nn
from torch.nn.functional import interpolate

__all__ = ["DeepUNet"]


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
