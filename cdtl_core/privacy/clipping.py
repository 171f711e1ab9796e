"""Opacus's per-patient gradient clipping, and the checks that refuse networks for which it gives no bound.

Source: Li et al. 2022, ghost clipping; Lee and Kifer 2021 for layers it has no formula for.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.functional import cross_entropy

from cdtl_core.errors import PrivacyError

__all__ = ["Clipping", "check_lengths", "check_private", "clipping", "loss_by_patient"]

_SAMPLES, _TOLERANCE = 3, 1e-6


class Clipping(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
    """Opacus's hooks with tensors in the default memory layout, which Opacus assumes.

    In channels-last layout its lengths of a convolution's gradients were wrong, and so was the clip.
    """

    def rearrange_grad_samples(self, **given: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Collect the inputs of a layer and the gradients of its output."""
        inputs, back = super().rearrange_grad_samples(**given)
        return [_plain(one) for one in inputs], _plain(back)

    def forget(self) -> None:
        """Remove what an interrupted pass has left in the layers, for example after an out-of-memory error."""
        for module in self.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for parameter in self.trainable_parameters:
            parameter._forward_counter, parameter.grad_sample = 0, None
            parameter.__dict__.pop("_current_grad_sample", None)


def check_private(model: nn.Module) -> None:
    """Refuse a model whose training would mix patients, or that has no per-patient gradients.

    Raises:
        PrivacyError: The sentence names the module and what to do.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and (module.track_running_stats or module.training):
            raise PrivacyError(
                f"'{name}' ({type(module).__name__}) computes statistics over all patients of a batch, even with "
                "frozen weights: build the classifier with frozen_norms=True, or choose a backbone with 2-d batch "
                "norms."
            )
    modes = {module: module.training for module in model.modules()}
    errors = ModuleValidator.validate(model.train(), strict=False)  # it refuses any other mode
    for module, mode in modes.items():
        module.training = mode
    if errors:
        raise _no_samples(errors[0])


def check_lengths(wrapped: Clipping, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse a network for which Opacus and autograd disagree on gradient lengths: the clip would not hold.

    The check uses random inputs and weights, no patient.

    Args:
        wrapped: The module; it is left unchanged.
        inputs: A batch, B ...; only its shape counts.
        labels: Labels of the batch, B M or B; only their shape counts.

    Raises:
        PrivacyError: They differ.
    """
    parameters = wrapped.trainable_parameters
    kept, rng = [p.detach().clone() for p in parameters], torch.Generator().manual_seed(0)
    for p in parameters:
        if not p.any():  # for example a head at its start, which would hide the layers before it
            p.data.copy_(0.1 * torch.randn(p.shape, generator=rng))
    samples = torch.randn(_SAMPLES, *inputs.shape[1:], generator=rng).to(parameters[0])
    wanted = torch.zeros(_SAMPLES, *labels.shape[1:], dtype=torch.int64, device=samples.device)
    loss_by_patient(wrapped(samples), wanted).sum().backward()  # type: ignore[no-untyped-call]
    wrapped.get_norm_sample()
    found = torch.stack([p._norm_sample for p in parameters])
    wrapped.disable_hooks()
    alone = [loss_by_patient(wrapped(samples[[row]]), wanted[[row]])[0] for row in range(_SAMPLES)]
    true = torch.stack([torch.stack([g.norm() for g in torch.autograd.grad(loss, parameters)]) for loss in alone], 1)
    wrapped.enable_hooks()
    for p, value in zip(parameters, kept, strict=True):
        p.data.copy_(value)
        p.grad = None
    if not torch.allclose(found, true, rtol=_TOLERANCE):
        raise PrivacyError(
            "Opacus computes wrong gradient lengths for this network, so clipping would not bound a patient's "
            "influence: choose another model.backbone, or train less of it (dp.stages)."
        )


def loss_by_patient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over each patient's images: logits B M K or B K to B."""
    losses = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view(len(labels), -1).mean(dim=1)


@contextmanager
def clipping(module: nn.Module, max_grad_norm: float) -> Iterator[Clipping]:
    """Install Opacus's hooks on a module for the block; afterwards the module is unchanged.

    Raises:
        PrivacyError: A trained layer has no gradient per sample.
    """
    try:
        wrapped = Clipping(module, max_grad_norm=max_grad_norm, loss_reduction="sum")
    except NotImplementedError as error:
        raise _no_samples(error) from None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")  # inputs need no gradient
            yield wrapped
    except RuntimeError as error:
        if "BackwardHookFunction" not in str(error):
            raise
        raise _no_samples(error) from None
    finally:
        wrapped.to_standard_module()
        for parameter in module.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter", "_norm_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
            parameter.grad = None


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor; `contiguous` would give an image of one pixel the strides of another layout."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _no_samples(error: Exception) -> PrivacyError:
    return PrivacyError(
        f"Opacus cannot compute this network's gradients per patient ({str(error).splitlines()[0][:120]}): "
        "choose another model.backbone, or train less of it (dp.stages)."
    )
