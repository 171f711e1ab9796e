"""Our own networks by name, and those that others register. Only the trunk of `lite0_levels` has ImageNet weights.

A network's code, and torch, are imported when it is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OWN", "STAGES", "OwnNet"]

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

    build: "Callable[[], nn.Module]"
    mean: tuple[float, float, float] = _HALVES
    std: tuple[float, float, float] = _HALVES
    about: str = ""
    of_plugin: bool = False


def _unet() -> "nn.Module":
    from cdtl_core.models.unet import UNet

    return UNet()


def _deepunet() -> "nn.Module":
    from cdtl_core.models.unet import DeepUNet

    return DeepUNet()


def _plain_cnn() -> "nn.Module":
    from cdtl_core.models.unet import PlainCNN

    return PlainCNN()


def _lite0_levels() -> "nn.Module":
    from cdtl_core.models.lite0_levels import Lite0Levels

    return Lite0Levels()


OWN: dict[str, OwnNet] = {
    "unet": OwnNet(_unet, about="U-Net as a feature extractor; random weights"),
    "deepunet": OwnNet(_deepunet, about="DeepUNet as a feature extractor; random weights"),
    "plain_cnn": OwnNet(_plain_cnn, about="five convolutions with batch norm; random weights"),
    "lite0_levels": OwnNet(_lite0_levels, about="middle stages of EfficientNet-Lite0, frozen, and a hidden layer"),
}
STAGES = {"efficientnet_lite0": 9, "unet": 9, "deepunet": 11, "plain_cnn": 5, "lite0_levels": 2}
"""Number of stages of the backbones that come with cdtl, so that settings are checked without building a network."""
