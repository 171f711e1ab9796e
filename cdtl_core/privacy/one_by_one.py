"""Sums of clipped gradients, one patient after the other: each gradient is autograd's own and is clipped as a whole.

Opacus computes the gradients of a batch together and needs inputs of one shape. Exams have any number of images, so
each patient is a batch of her own here. Her gradient then depends on no other patient by construction.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cdtl_core.models.draws import PatientDropout
from cdtl_core.models.exams import Batch, Exams
from cdtl_core.privacy.clipping import loss_by_patient

__all__ = ["sums_one_by_one"]


def sums_one_by_one(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    max_grad_norm: float,
    inputs: Batch,
    labels: torch.Tensor,
    dropout: PatientDropout,
    masks: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Return the sum of the patients' clipped gradients for each parameter.

    Args:
        module: Inputs to logits.
        parameters: What is trained; one that the inputs do not use has no gradient.
        max_grad_norm: C.
        inputs: B ..., or B M exams.
        labels: B M or B.
        dropout: The dropout layer; it is given each patient's masks.
        masks: Dropout masks of all patients, B ..., or None.
    """
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for place in range(len(labels)):
        loss = _loss(module, inputs, labels, place, dropout, masks)
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        length = torch.stack([slope.norm() for slope in slopes]).norm()
        factor = (max_grad_norm / length.clamp(min=1e-12)).clamp(max=1.0)
        for total, slope in zip(sums, slopes, strict=True):
            total.add_(factor * slope)
    return sums


def _loss(
    module: nn.Module,
    inputs: Batch,
    labels: torch.Tensor,
    place: int,
    dropout: PatientDropout,
    masks: torch.Tensor | None,
) -> torch.Tensor:
    """Return the mean loss of a patient's units.

    Args:
        module: Inputs to logits.
        inputs: Those of all patients.
        labels: Those of all patients.
        place: Of the patient.
        dropout: The dropout layer.
        masks: Those of all patients.
    """
    own = labels[place : place + 1]
    if not isinstance(inputs, Exams):
        dropout.masks = None if masks is None else masks[place : place + 1]
        return loss_by_patient(module(inputs[place : place + 1]), own)[0]
    each = own.numel()
    dropout.masks = None if masks is None else masks[place]
    return loss_by_patient(module(inputs[place * each : (place + 1) * each])[None], own)[0]
