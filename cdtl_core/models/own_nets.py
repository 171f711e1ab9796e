"""Our own networks by name. Only the trunk of `lite0_levels` has ImageNet weights."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from cdtl_core.models.deepunet import DeepUNet
from cdtl_core.models.lite0_levels import Lite0Levels
from cdtl_core.models.unet import UNet

__all__ = ["OWN", "OwnNet", "PlainCNN"]

_HALVES = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class OwnNet:
    """How a network without its classifier is built, and how its images are normalised.

    Attributes:
        build: Gives the network, B 3 H W to B D, with random weights.
        mean: Per colour channel, taken off pixels in [0, 1].
        std: Per colour channel, which the rest is divided by.
        about: The network in a few words, for lists.
        of_plugin: Whether a package brings it. Then the built network may carry `mean` and `std` too.
    """

    build: Callable[[], nn.Module]
    mean: tuple[float, float, float] = _HALVES
    std: tuple[float, float, float] = _HALVES
    about: str = ""
    of_plugin: bool = False


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


OWN: dict[str, OwnNet] = {
    "unet": OwnNet(UNet, about="U-Net as a feature extractor; random weights"),
    "deepunet": OwnNet(DeepUNet, about="DeepUNet as a feature extractor; random weights"),
    "plain_cnn": OwnNet(PlainCNN, about="five convolutions with batch norm; random weights"),
    "lite0_levels": OwnNet(Lite0Levels, about="middle stages of EfficientNet-Lite0, frozen, and a hidden layer"),
}
