"""Our own networks by name. Only the trunk of `lite0_levels` has ImageNet weights."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from cdtl_core.models.deepunet import DeepUNet
from cdtl_core.models.lite0_levels import Lite0Levels
from cdtl_core.models.plain_cnn import PlainCNN
from cdtl_core.models.unet import UNet

__all__ = ["OWN", "OwnNet"]

_HALVES = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class OwnNet:
    """How a network without its classifier is built, and how its images are normalised.

    Attributes:
        build: Gives the network, B 3 H W to B D, with random weights.
        mean: Per colour channel, taken off pixels in [0, 1].
        std: Per colour channel, which the rest is divided by.
    """

    build: Callable[[], nn.Module]
    mean: tuple[float, float, float] = _HALVES
    std: tuple[float, float, float] = _HALVES


OWN: dict[str, OwnNet] = {
    "unet": OwnNet(UNet),
    "deepunet": OwnNet(DeepUNet),
    "plain_cnn": OwnNet(PlainCNN),
    "lite0_levels": OwnNet(Lite0Levels),
}
