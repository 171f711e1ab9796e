"""AdamW with torch's own arithmetic, without the class around it.

`torch.optim.AdamW` imports torch's compiler when it is made and at each step, which takes two seconds of each process
that trains. The function behind it does not; the bits are the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.optim.adamw import adamw

__all__ = ["AdamW", "Group"]


class Group(NamedTuple):
    """Parameters with one learning rate."""

    parameters: Sequence[torch.nn.Parameter]
    lr: float


class AdamW:
    """A fresh optimizer with torch's defaults.

    Args:
        groups: What is trained; a parameter without a gradient stays as it is.
        weight_decay: Share of a weight, times the learning rate, that each step removes.

    Source: Loshchilov and Hutter 2019.
    """

    def __init__(self, groups: Sequence[Group], weight_decay: float) -> None:
        self._groups, self._decay = groups, weight_decay
        self._state: dict[torch.nn.Parameter, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the negative gradients."""
        for parameters, lr in self._groups:
            moved = [one for one in parameters if one.grad is not None]
            state = [self._state_of(one) for one in moved]
            adamw(
                list(moved),
                [one.grad for one in moved if one.grad is not None],
                [mean for mean, _, _ in state],
                [square for _, square, _ in state],
                [],
                [count for _, _, count in state],
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=lr,
                weight_decay=self._decay,
                eps=1e-8,
                maximize=False,
            )

    def _state_of(self, parameter: torch.nn.Parameter) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the running means of gradient and squared gradient, and the number of steps."""
        if parameter not in self._state:
            zeros = [torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2)]
            self._state[parameter] = (*zeros, torch.tensor(0.0, dtype=torch.float32))  # type: ignore[assignment]
        return self._state[parameter]
