"""Trains a linear head on cached features without autograd: the same steps as `fit`, at a tenth of the cost.

If no stage of the backbone is trained, most of the time of a step of `fit` is overhead around a product of two small
matrices. Here the gradient of the cross-entropy and AdamW are written out.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import cross_entropy, dropout, log_softmax, one_hot

from cdtl_core.config import TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.exams import Attention
from cdtl_core.models.model import Classifier
from cdtl_core.training.inputs import Entry, changed_inputs, drawn_inputs
from cdtl_core.training.objective import PLAIN, Objective

__all__ = ["fit_linear_head", "is_linear"]

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # torch's AdamW


def is_linear(
    model: Classifier, entry: Entry | None, objective: Objective = PLAIN, *, has_several: bool = False
) -> bool:
    """Whether only a linear head is trained, with a gradient that is written out.

    This needs cached features and no trained layer between them and the head.

    Args:
        model: The classifier.
        entry: Where inputs enter.
        objective: What is minimised.
        has_several: Whether an exam has several images, so that attention over them is trained too.
    """
    linear = entry is not None and entry.stages is None and isinstance(model.adapter, torch.nn.Identity)
    linear = linear and not (has_several and isinstance(model.pooling, Attention))
    return linear and objective.criterion is cross_entropy and objective.slope(_tensors(model)) is not None


def _tensors(model: Classifier) -> dict[str, torch.Tensor]:
    return {"head.weight": model.head.weight.data, "head.bias": model.head.bias.data}


def fit_linear_head(
    model: Classifier,
    fold: Fold,
    config: TrainConfig,
    *,
    lr: float,
    weight: torch.Tensor | None,
    rng: np.random.Generator,
    entry: Entry,
    objective: Objective = PLAIN,
) -> list[float]:
    """Take `config.steps` steps of AdamW on the head, in place, and return the loss of each step.

    Call it where torch's generator is seeded for dropout. With the same generators it draws what `fit` draws, so both
    agree up to rounding (tests/training/test_linear_head.py).

    Args:
        model: Only its head changes.
        fold: The training images.
        config: Steps and batch size, rates, weight decay.
        lr: Learning rate of the head.
        weight: Class weights, K, or None.
        rng: Draws order and views.
        entry: Where the features are cached.
        objective: What is minimised; its gradient is written out.
    """
    inputs_of, end = changed_inputs(model, fold, config.augment, rng, entry), model.end()
    order = batch_rows(fold.num_units, config, rng)
    labels = torch.from_numpy(fold.labels[order])
    hits = one_hot(labels, model.head.out_features).float()
    weights = weight[labels] if weight is not None else torch.ones(labels.shape)
    head, losses = _AdamW(model.head, lr, config.weight_decay), []
    with torch.no_grad():
        for rows, batch in zip(order, zip(labels, hits, weights, strict=True), strict=True):
            inputs = dropout(end.pooled(drawn_inputs(inputs_of, fold, rows, config, rng)), model.dropout.p)
            found = objective.slope(head.tensors)
            assert found is not None  # noqa: S101
            logits = torch.addmm(found.at["head.bias"], inputs, found.at["head.weight"].T)
            loss, slope = _cross_entropy(logits, *batch)
            slopes = {"head.weight": slope.T @ inputs, "head.bias": slope.sum(dim=0)}
            head.step(found.of(slopes))
            losses.append(loss + found.penalty)
    head.write(model.head)
    return losses


def batch_rows(num_units: int, config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of `config.steps` batches, steps x batch size: consecutive shuffled passes over all units.

    Args:
        num_units: Number of units.
        config: Steps and batch size.
        rng: Draws the order.
    """
    need = config.steps * config.batch_size
    passes = [rng.permutation(num_units) for _ in range(-(-need // num_units))]
    order = np.concatenate([np.empty(0, np.int64), *passes])[:need]
    return order.reshape(config.steps, config.batch_size)


class _AdamW:
    """AdamW for the weight and bias of a linear layer as one vector; source: Loshchilov and Hutter 2019.

    Attributes:
        tensors: ``head.weight`` and ``head.bias``: views of the vector.
    """

    def __init__(self, layer: torch.nn.Linear, lr: float, decay: float) -> None:
        self._all = torch.cat([layer.weight.data.flatten(), layer.bias.data])
        self._slope, self._mean, self._square = (torch.zeros_like(self._all) for _ in range(3))
        self.tensors, self._slopes = (_named(one, layer.weight.shape) for one in (self._all, self._slope))
        self._lr, self._decay, self._steps = lr, decay, 0

    def step(self, slopes: Mapping[str, torch.Tensor]) -> None:
        """Take one step along the negative gradient of weight and bias."""
        for name, value in slopes.items():
            self._slopes[name].copy_(value)
        self._steps += 1
        first, second = 1 - _BETA1**self._steps, 1 - _BETA2**self._steps
        self._all.mul_(1 - self._lr * self._decay)
        self._mean.lerp_(self._slope, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(self._slope, self._slope, value=1 - _BETA2)
        self._all.addcdiv_(self._mean, self._square.sqrt().div_(second**0.5).add_(_EPS), value=-self._lr / first)

    def write(self, layer: torch.nn.Linear) -> None:
        """Copy weight and bias into the layer."""
        layer.weight.data.copy_(self.tensors["head.weight"])
        layer.bias.data.copy_(self.tensors["head.bias"])


def _named(vector: torch.Tensor, shape: torch.Size) -> dict[str, torch.Tensor]:
    count = shape.numel()
    return {"head.weight": vector[:count].view(shape), "head.bias": vector[count:]}


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, hits: torch.Tensor, weights: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Return the weighted mean over a batch, and its gradient with respect to the logits B K.

    Args:
        logits: B K.
        labels: Classes, B.
        hits: Labels, one-hot, B K.
        weights: Weight of each image, B.
    """
    log_probabilities = log_softmax(logits, dim=1)
    each = weights / weights.sum()
    loss = -(each * log_probabilities.gather(1, labels[:, None])[:, 0]).sum()
    return float(loss), log_probabilities.exp().sub_(hits).mul_(each[:, None])
