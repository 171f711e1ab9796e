"""Training objectives: a loss of the network's logits, with an extra term or a mixed network for some methods.

An objective is a value: `fit` asks it for the loss of a batch and knows nothing else about it. The loss of the logits
is the cross-entropy, or the one that `train.loss` names.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from cdtl_core.config import RunConfig
from cdtl_core.errors import ConfigError
from cdtl_core.models.exams import Batch
from cdtl_core.system.plugins import explaining
from cdtl_core.system.registry import Registry

__all__ = ["LOSSES", "PLAIN", "Loss", "Mixture", "Objective", "Proximal", "Slope", "check_loss", "mix_tensors"]
__all__ += ["register_loss"]

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Logits B K, labels B, and class weights K or None, to the batch's loss as a scalar: a mean weighted by class."""
LOSSES: Registry[Loss] = Registry(
    "losses",
    takes="logits, labels and class weights",
    remedy="set train.loss to one of {known}",
    shipped={"cross_entropy": cross_entropy},
)


def register_loss(name: str, loss: Loss) -> None:
    """Make a loss known to this process as ``train.loss``.

    For the command line and for runs between hospitals, put it into a package (docs/guides/package.md).

    Args:
        name: Lower case, digits, ``_`` and ``-``, at most 48 characters.
        loss: From logits B K, labels B and class weights (K, or None with ``train.class_weighted = false``) to a
            scalar: the mean over the batch, each image with the weight of its label.

    Raises:
        ConfigError: The name is taken or malformed.

    Examples:
        >>> from torch.nn.functional import multi_margin_loss
        >>> from cdtl_core import register_loss
        >>> register_loss("margin", lambda logits, labels, weight: multi_margin_loss(logits, labels, weight=weight))
    """
    LOSSES.register(name, loss)


def check_loss(config: RunConfig) -> None:
    """Refuse a loss that no training could use, before any image is read: one call with two images of each label.

    Raises:
        ConfigError: `train.loss` is unknown, or a registered one fails or returns something else than one number that
            depends on the logits.
    """
    name, count = config.train.loss, len(config.task.labels)
    loss = LOSSES.find(name)
    if name in LOSSES.shipped:
        return
    logits = torch.linspace(-1, 1, 2 * count * count).reshape(2 * count, count).requires_grad_()
    labels, weight = torch.arange(count).repeat(2), torch.ones(count) if config.train.class_weighted else None
    remedy = "write it as a function of logits (B K), labels (B) and class weights (K or None)"
    with explaining(f"the loss '{name}' failed on a small batch", remedy), torch.random.fork_rng(devices=[]):
        found = loss(logits, labels, weight)  # the check changes no random number of the training
    if not isinstance(found, torch.Tensor) or found.numel() != 1 or not found.requires_grad:
        got = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        got += ", without a gradient" if isinstance(found, torch.Tensor) and not found.requires_grad else ""
        raise ConfigError(
            f"the loss '{name}' returned {got}: return one number that depends on the logits, the mean over the batch "
            "as a tensor."
        )


@dataclass(frozen=True)
class Slope:
    """How an objective's gradient follows from that of the cross-entropy, for code that writes gradients out.

    Attributes:
        at: Tensors at which the cross-entropy and its gradient are evaluated.
        factor: Multiplies this gradient.
        pull: Added to the gradient.
        penalty: Added to the loss.
    """

    at: Mapping[str, torch.Tensor]
    factor: float
    pull: Mapping[str, torch.Tensor]
    penalty: float

    def of(self, slopes: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the objective's gradient from that of the cross-entropy."""
        if self.factor == 1.0 and not self.pull:
            return slopes
        return {name: self.factor * value + self.pull.get(name, 0.0) for name, value in slopes.items()}


class Objective:
    """The loss of the network's logits, weighted by class: the cross-entropy, or that of `using`."""

    criterion: Loss = staticmethod(cross_entropy)

    def using(self, loss: Loss) -> "Objective":
        """Return the objective with another loss of the logits."""
        if loss is self.criterion:
            return self
        other = copy.copy(self)
        vars(other)["criterion"] = loss  # objectives are frozen dataclasses
        return other

    def loss(self, model: nn.Module, images: Batch, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of a batch as a scalar.

        Args:
            model: The network.
            images: Normalised, B 3 H W, or the images of B exams.
            labels: B.
            weight: Class weights, K, or None.
        """
        return self.criterion(model(images), labels, weight)

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope | None:  # noqa: ARG002
        """Return the gradient rule for a network's tensors `own` under the cross-entropy; None: autograd only."""
        return None


class _Plain(Objective):
    """The cross-entropy itself."""

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope:
        """Return the rule of the unchanged cross-entropy."""
        return Slope(own, 1.0, {}, 0.0)


PLAIN: Objective = _Plain()


@dataclass(frozen=True)
class Proximal(Objective):
    """Cross-entropy plus ``mu / 2 ||w - anchor||^2`` over the trained tensors that the anchor names.

    Attributes:
        mu: Strength, 0 or more.
        anchor: Tensor name to the value that attracts the network's tensor.

    Source: Li et al. 2020 (FedProx), eq. (2).
    """

    mu: float
    anchor: Mapping[str, torch.Tensor]

    def loss(self, model: nn.Module, images: Batch, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Return the batch's cross-entropy plus the penalty.

        Args:
            model: The network.
            images: Normalised, B 3 H W, or the images of B exams.
            labels: B.
            weight: Class weights, K, or None.
        """
        return super().loss(model, images, labels, weight) + self.penalty(model)

    def penalty(self, model: nn.Module) -> torch.Tensor:
        """Return a scalar whose gradient is ``mu (w - anchor)``."""
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        held = [(value, self.anchor[name].to(value.device)) for name, value in trained if name in self.anchor]
        squares = [(value - anchor).square().sum() for value, anchor in held]
        return self.mu / 2 * torch.stack(squares).sum() if squares else torch.zeros(())

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope:
        """Return the rule: the cross-entropy's gradient plus ``mu (w - anchor)``."""
        apart = {name: value - self.anchor[name] for name, value in own.items() if name in self.anchor}
        penalty = self.mu / 2 * sum(float(value.square().sum()) for value in apart.values())
        return Slope(own, 1.0, {name: self.mu * value for name, value in apart.items()}, penalty)


@dataclass(frozen=True)
class Mixture(Objective):
    """Cross-entropy of a network mixed from its own tensors and constant ones.

    Attributes:
        share: Share of its own tensors, in [0, 1].
        other: Tensor name to the constant tensor; other tensors are the network's own.

    Source: Deng et al. 2020 (APFL).
    """

    share: float
    other: Mapping[str, torch.Tensor]

    def loss(self, model: nn.Module, images: Batch, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Return the batch's cross-entropy of the mixed network; gradients go to the network's own tensors.

        Args:
            model: The network.
            images: Normalised, B 3 H W, or the images of B exams.
            labels: B.
            weight: Class weights, K, or None.
        """
        own = {name: value for name, value in model.named_parameters() if name in self.other}
        mixed = mix_tensors(torch.tensor(self.share), own, self.other)
        return self.criterion(functional_call(model, mixed, (images,)), labels, weight)

    def slope(self, own: Mapping[str, torch.Tensor]) -> Slope:
        """Return the rule: the mixed network's gradient times the share of its own tensors."""
        mixed = mix_tensors(
            torch.tensor(self.share), {name: own[name] for name in own if name in self.other}, self.other
        )
        return Slope({**own, **mixed}, self.share, {}, 0.0)


def mix_tensors(
    share: torch.Tensor, own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return ``share * own + (1 - share) * other`` by name over `own`, with its memory layout and device.

    Args:
        share: Share of `own`, in [0, 1].
        own: Tensor name to the own tensor.
        other: Tensor name to the other tensor.
    """
    mixed = {}
    for name, value in own.items():
        still = torch.empty_like(value).copy_(other[name].detach())
        mixed[name] = share.to(value.device) * value + (1 - share.to(value.device)) * still
    return mixed
