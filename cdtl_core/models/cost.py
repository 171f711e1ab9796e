"""Cost of a classifier: parameters, and multiply-accumulates for one image."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Cost", "cost_of"]


@dataclass(frozen=True)
class Cost:
    """Number of parameters, including frozen ones, and multiply-accumulates for one image."""

    parameters: int
    macs: int


def cost_of(model: nn.Module, image_size: int) -> Cost:
    """Count parameters and multiply-accumulates (convolutions and matrix products) for images B 3 H W.

    Source: eq. (16), Inbaraj et al. 2025, counted by torch's FlopCounterMode at two operations each.
    """
    model.eval()
    images = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return Cost(sum(one.numel() for one in model.parameters()), counter.get_total_flops() // 2)
