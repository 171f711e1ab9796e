"""Pools the output of a stage into one vector per image region."""

from typing import Literal

import torch

__all__ = ["Regions", "pooled"]

Regions = Literal["whole", "centre"]


def pooled(output: torch.Tensor, regions: Regions) -> list[torch.Tensor]:
    """Return means B C of a stage's output B C H W, tokens B N C or vectors B C.

    With ``centre`` there are two: over the central half of height and width, where the lesion is, and over the rest.
    Outputs that are not maps, or are too small for both regions, give one.
    """
    if output.ndim != 4:
        return [output.mean(dim=1) if output.ndim == 3 else output]
    height, width = output.shape[2:]
    top, left = height // 4, width // 4
    if regions == "whole" or not (top and left):
        return [output.mean(dim=(2, 3))]
    inner = output[:, :, top : height - top, left : width - left]
    count = inner.shape[2] * inner.shape[3]
    around = (output.sum(dim=(2, 3)) - inner.sum(dim=(2, 3))) / (height * width - count)
    return [inner.mean(dim=(2, 3)), around]
