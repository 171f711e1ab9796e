"""What training minimises: the cross-entropy of the network, or of a method that needs another term or another network.

A value: `fit` asks it for the loss of a batch and knows nothing else of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

__all__ = ["PLAIN", "Mixture", "Objective", "Proximal", "Slope", "mix_tensors"]


@dataclass(frozen=True)
class Slope:
    """How an objective's gradient follows from the cross-entropy's, for who writes gradients out.

    Attributes:
        at: Tensors at which the cross-entropy and its gradient are taken.
        factor: What this gradient is multiplied with.
        pull: Added to it.
        penalty: Added to the loss.
    """

    at: Mapping[str, torch.Tensor]
    factor: float
    pull: Mapping[str, torch.Tensor]
    penalty: float

    def of(self, slopes: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The objective's gradient from that of the cross-entropy."""
        if self.factor == 1.0 and not self.pull:
            return slopes
        return {name: self.factor * value + self.pull.get(name, 0.0) for name, value in slopes.items()}


class Objective:
    """Cross-entropy of the network's logits, weighted by class."""

    def loss(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None
    ) -> torch.Tensor:
        """A scalar from normalised images B 3 H W and labels B; `weight` K or None."""
        return cross_entropy(model(images), labels, weight)

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope | None:  # noqa: ARG002
        """How its gradient by a network's tensors `own` follows from the cross-entropy's; None: by autograd alone."""
        return None


class _Plain(Objective):
    """The cross-entropy itself."""

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope:
        """The cross-entropy's gradient as it is."""
        return Slope(own, 1.0, {}, 0.0)


PLAIN: Objective = _Plain()


@dataclass(frozen=True)
class Proximal(Objective):
    """Cross-entropy plus ``mu / 2 ||w - anchor||^2`` over the trained tensors that the anchor names.

    Attributes:
        mu: Strength, 0 or more.
        anchor: Tensor name to what the network is held to.

    Source: Li et al. 2020 (FedProx), eq. (2).
    """

    mu: float
    anchor: Mapping[str, torch.Tensor]

    def loss(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None
    ) -> torch.Tensor:
        """The batch's cross-entropy and the penalty."""
        return super().loss(model, images, labels, weight) + self.penalty(model)

    def penalty(self, model: nn.Module) -> torch.Tensor:
        """A scalar whose gradient is ``mu (w - anchor)``."""
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        held = [(value, self.anchor[name].to(value.device)) for name, value in trained if name in self.anchor]
        squares = [(value - anchor).square().sum() for value, anchor in held]
        return self.mu / 2 * torch.stack(squares).sum() if squares else torch.zeros(())

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope:
        """That of the cross-entropy and ``mu (w - anchor)``."""
        apart = {name: value - self.anchor[name] for name, value in own.items() if name in self.anchor}
        penalty = self.mu / 2 * sum(float(value.square().sum()) for value in apart.values())
        return Slope(own, 1.0, {name: self.mu * value for name, value in apart.items()}, penalty)


@dataclass(frozen=True)
class Mixture(Objective):
    """Cross-entropy of a network mixed of its own tensors and others that stand still.

    Attributes:
        share: Of its own, in [0, 1].
        other: Tensor name to what is mixed in; tensors that are not named are the network's own.

    Source: Deng et al. 2020 (APFL).
    """

    share: float
    other: Mapping[str, torch.Tensor]

    def loss(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None
    ) -> torch.Tensor:
        """The batch's cross-entropy under the mixed network; gradients go to the network's own tensors."""
        own = {name: value for name, value in model.named_parameters() if name in self.other}
        mixed = mix_tensors(torch.tensor(self.share), own, self.other)
        return cross_entropy(functional_call(model, mixed, (images,)), labels, weight)

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope:
        """That of the mixed network, times the share of its own."""
        mixed = mix_tensors(
            torch.tensor(self.share), {name: own[name] for name in own if name in self.other}, self.other
        )
        return Slope({**own, **mixed}, self.share, {}, 0.0)


def mix_tensors(
    share: torch.Tensor, own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``share * own + (1 - share) * other``, name by name over `own`, in its memory layout and on its device."""
    mixed = {}
    for name, value in own.items():
        still = torch.empty_like(value).copy_(other[name].detach())
        mixed[name] = share.to(value.device) * value + (1 - share.to(value.device)) * still
    return mixed
