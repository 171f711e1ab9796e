"""Grad-CAM: where in an image a classifier finds evidence for a label."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from cdtl_core.models.exams import Batch, Exams
from cdtl_core.models.libraries import timm, torchvision

__all__ = ["grad_cam"]

_MAPS = (nn.Conv2d, nn.BatchNorm2d, torchvision.ops.FrozenBatchNorm2d)
"""Layers that give feature maps; in attention, four dimensions mean something else."""
_SMALLEST = 5
"""Smallest number of rows and columns of a feature map; coarser ones do not show where."""
_Kept = tuple[int, torch.Tensor, tuple[int, int] | None]
"""Number of the backbone, a layer's output, and the rows and columns of its patches if it is tokens."""


class Networks(Protocol):
    """A classifier of one or several networks."""

    @property
    def backbones(self) -> Sequence[nn.Module]:
        """The feature extractors."""

    def __call__(self, images: Batch) -> torch.Tensor:
        """Logits B K."""


def grad_cam(model: Networks, images: Batch, label: int) -> torch.Tensor | None:
    """Return the evidence for a label, B H W in [0, 1] at the images' size; None for a network without feature maps.

    Of exams with several images there is a map for each image, N H W, which shows what it adds to its exam's decision.

    In each backbone the last feature map of at least 5 x 5 on which the label's log-probability depends is used; in a
    vision transformer of timm, the last block's patches on which it depends. The maps of several backbones are added.

    Args:
        model: Left in evaluation mode.
        images: Normalised, B 3 H W, or those of exams.
        label: Index.

    Source: eqs. (1)-(2), Selvaraju et al. 2017.
    """
    backbones = model.backbones
    cast(nn.Module, model).eval()
    maps, gradients = _gradients(model, images, label)
    known: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in backbones]
    for (place, value, grid), slope in zip(maps, gradients, strict=True):
        if slope is not None and grid is None:
            known[place].append((value, slope))
        elif slope is not None and grid is not None and (patches := _patches(slope, grid)).any():
            known[place].append((_patches(value, grid), patches))
    if any(len(found) < _fewest(backbone) for found, backbone in zip(known, backbones, strict=True)):
        return None
    size = images.images.shape[2:] if isinstance(images, Exams) else images.shape[2:]
    heats = [_heat(*found[-1], size) for found in known]
    heat = torch.stack(heats).sum(dim=0)
    highest: torch.Tensor = heat.amax(dim=(1, 2), keepdim=True)
    return heat / highest.clamp(min=1e-12)


def _gradients(model: Networks, images: Batch, label: int) -> tuple[list[_Kept], Sequence[torch.Tensor | None]]:
    """Return the layers' outputs that show where, and the gradient of the label's log-probability for each.

    Args:
        model: The networks.
        images: Normalised, B 3 H W, or those of exams.
        label: Index.
    """
    maps: list[_Kept] = []

    def keeper(place: int, grid: tuple[int, int] | None) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if grid or (isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) >= _SMALLEST):
                maps.append((place, output, grid))

        return keep

    hooks = [
        module.register_forward_hook(keeper(place, grid))
        for place, backbone in enumerate(model.backbones)
        for module, grid in _layers(backbone)
    ]
    try:
        with torch.enable_grad():
            said = model(_with_gradient(images)).log_softmax(dim=1)[:, label].sum()
            return maps, torch.autograd.grad(said, [one for _, one, _ in maps], allow_unused=True) if maps else ()
    finally:
        for hook in hooks:
            hook.remove()


def _fewest(backbone: nn.Module) -> int:
    """Return how many maps show that one of them is a feature map: the first one may be the division into patches."""
    return 1 if isinstance(backbone, timm.models.VisionTransformer) else 2


def _layers(backbone: nn.Module) -> list[tuple[nn.Module, tuple[int, int] | None]]:
    """Return a backbone's layers that show where, each with the rows and columns of its patches if it gives tokens."""
    if isinstance(backbone, timm.models.VisionTransformer):
        grid = backbone.patch_embed.grid_size
        return [(block, grid) for block in backbone.blocks] if min(grid) >= _SMALLEST else []
    return [(module, None) for module in backbone.modules() if isinstance(module, _MAPS)]


def _patches(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the patches among tokens B N C, which come last, as a map B C h w."""
    last = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
    return last.transpose(1, 2).reshape(len(tokens), -1, *grid)


def _with_gradient(images: Batch) -> Batch:
    if isinstance(images, Exams):
        return images.map(lambda one: one.detach().requires_grad_())
    return images.detach().requires_grad_()


def _heat(value: torch.Tensor, slope: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return the part of a feature map B C h w that supports the label, B H W."""
    heat = (slope.mean(dim=(2, 3), keepdim=True) * value).sum(dim=1, keepdim=True).clamp(min=0).detach()
    return nn.functional.interpolate(heat.float(), size=size, mode="bilinear", align_corners=False)[:, 0]
