"""Grad-CAM: where in an image a classifier finds evidence for a label."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from cdtl_core.models.libraries import torchvision

__all__ = ["grad_cam"]

_MAPS = (nn.Conv2d, nn.BatchNorm2d, torchvision.ops.FrozenBatchNorm2d)
"""Layers that give feature maps; in attention, four dimensions mean something else."""
_SMALLEST = 5
"""Smallest number of rows and columns of a feature map; coarser ones do not show where."""


class Networks(Protocol):
    """A classifier of one or several networks."""

    @property
    def backbones(self) -> Sequence[nn.Module]:
        """The feature extractors."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits B K."""


def grad_cam(model: Networks, images: torch.Tensor, label: int) -> torch.Tensor | None:
    """Return the evidence for a label, B H W in [0, 1] at the images' size; None for a network without feature maps.

    In each backbone the last feature map of at least 5 x 5 on which the label's log-probability depends is used. The
    maps of several backbones are added.

    Args:
        model: Left in evaluation mode.
        images: Normalised, B 3 H W.
        label: Index.

    Source: eqs. (1)-(2), Selvaraju et al. 2017.
    """
    maps: list[tuple[int, torch.Tensor]] = []
    backbones = model.backbones

    def keeper(place: int) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) >= _SMALLEST:
                maps.append((place, output))

        return keep

    cast(nn.Module, model).eval()
    hooks = [
        module.register_forward_hook(keeper(place))
        for place, backbone in enumerate(backbones)
        for module in backbone.modules()
        if isinstance(module, _MAPS)
    ]
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
            said = logits.log_softmax(dim=1)[:, label].sum()
            gradients = torch.autograd.grad(said, [one for _, one in maps], allow_unused=True) if maps else ()
    finally:
        for hook in hooks:
            hook.remove()
    known: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in backbones]
    for (place, value), slope in zip(maps, gradients, strict=True):
        if slope is not None:
            known[place].append((value, slope))
    if any(len(found) < 2 for found in known):  # the division into patches is not a feature map
        return None
    heats = [_heat(*found[-1], images.shape[2:]) for found in known]
    heat = torch.stack(heats).sum(dim=0)
    highest: torch.Tensor = heat.amax(dim=(1, 2), keepdim=True)
    return heat / highest.clamp(min=1e-12)


def _heat(value: torch.Tensor, slope: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return the part of a feature map B C h w that supports the label, B H W."""
    heat = (slope.mean(dim=(2, 3), keepdim=True) * value).sum(dim=1, keepdim=True).clamp(min=0).detach()
    return nn.functional.interpolate(heat.float(), size=size, mode="bilinear", align_corners=False)[:, 0]
