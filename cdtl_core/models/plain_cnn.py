"""A plain convolutional network, the reference for other backbones."""

from itertools import pairwise

from torch import nn

__all__ = ["PlainCNN"]


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
