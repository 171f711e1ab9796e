"""Our own networks by name. Only the trunk of `lite0_levels` has ImageNet weights."""

from collections.abc import Callable, Mapping

from torch import nn

from cdtl_core.models.deepunet import DeepUNet
from cdtl_core.models.lite0_levels import Lite0Levels
from cdtl_core.models.plain_cnn import PlainCNN
from cdtl_core.models.unet import UNet

__all__ = ["OWN"]

OWN: Mapping[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "deepunet": DeepUNet,
    "plain_cnn": PlainCNN,
    "lite0_levels": Lite0Levels,
}
