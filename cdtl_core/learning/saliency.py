"""Where in an image a classifier looked: Grad-CAM."""

from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from cdtl_core.learning.model import Classifier

__all__ = ["grad_cam"]

_MAPS = (nn.Conv2d, nn.BatchNorm2d, FrozenBatchNorm2d)
"""What gives feature maps; in attention four dimensions mean something else."""
_SMALLEST = 5
"""Rows and columns that a feature map must have: a coarser one says nothing of where."""


def grad_cam(model: Classifier, images: torch.Tensor, label: int) -> torch.Tensor | None:
    """What speaks for a label, B H W in [0, 1] at the images' size; None for a network without feature maps.

    The last feature map of at least 5 x 5 on which the label's log-probability depends is taken.

    Args:
        model: Left in evaluation mode.
        images: Normalised, B 3 H W.
        label: Index.

    Source: eqs. (1)-(2), Selvaraju et al. 2017.
    """
    maps: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) >= _SMALLEST:
            maps.append(output)

    model.eval()
    hooks = [module.register_forward_hook(keep) for module in model.backbone.modules() if isinstance(module, _MAPS)]
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
            said = logits.log_softmax(dim=1)[:, label].sum()
            gradients = torch.autograd.grad(said, maps, allow_unused=True) if maps else ()
    finally:
        for hook in hooks:
            hook.remove()
    known = [(value, slope) for value, slope in zip(maps, gradients, strict=True) if slope is not None]
    if len(known) < 2:  # the cut into patches is no feature map
        return None
    value, slope = known[-1]
    heat = (slope.mean(dim=(2, 3), keepdim=True) * value).sum(dim=1, keepdim=True).clamp(min=0).detach()
    heat = nn.functional.interpolate(heat.float(), size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest: torch.Tensor = heat.amax(dim=(1, 2), keepdim=True)
    return heat / highest.clamp(min=1e-12)
