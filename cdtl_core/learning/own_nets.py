"""Networks of our own by name; no library has ImageNet weights for them."""

from collections.abc import Callable, Mapping

from torch import nn

from cdtl_core.learning.deepunet import DeepUNet
from cdtl_core.learning.plain_cnn import PlainCNN
from cdtl_core.learning.unet import UNet

__all__ = ["OWN"]

OWN: Mapping[str, Callable[[], nn.Module]] = {"unet": UNet, "deepunet": DeepUNet, "plain_cnn": PlainCNN}
