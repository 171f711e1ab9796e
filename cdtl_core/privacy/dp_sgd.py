"""DP-SGD with Opacus: each patient's gradient is clipped, noise is added, and only the result may leave the site.

Steps are plain SGD on the noised gradient. With zero noise and no clip they are plain SGD on the patients' mean loss,
which is what a site exempt from privacy takes on the same part of the network.

Sources: Abadi et al. 2016 (DP-SGD); De et al. 2022 (a gradient averaged over an image's augmentations, then clipped).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import nn

from cdtl_core.config import DpConfig
from cdtl_core.data.pixels import Ints
from cdtl_core.errors import PrivacyError
from cdtl_core.models.draws import Draws, PatientDropout, dropout_masks, poisson
from cdtl_core.models.exams import Batch
from cdtl_core.models.model import Classifier
from cdtl_core.models.noise import Entropy, gaussian, kernel_entropy
from cdtl_core.privacy.clipping import Clipping, check_lengths, check_private, clipping, loss_by_patient
from cdtl_core.privacy.mechanism import Mechanism
from cdtl_core.privacy.one_by_one import sums_one_by_one
from cdtl_core.training.parts import Parts
from cdtl_core.training.patient_inputs import Examples

__all__ = ["fit_private", "private_mean"]


class _KernelNoise(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus's optimizer for gradients that are already clipped, with noise from the kernel."""

    def __init__(self, optimizer: torch.optim.Optimizer, mechanism: Mechanism, entropy: Entropy) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=mechanism.expected,
            loss_reduction="mean",
        )
        self._entropy = entropy

    def add_noise(self) -> None:
        """Add noise to each summed gradient, once."""
        std = self.noise_multiplier * self.max_grad_norm if self.noise_multiplier else 0.0
        for p in self.params:
            noised = p.summed_grad.double() + gaussian(p.summed_grad, std, self._entropy)
            p.grad = noised.to(p.dtype).view_as(p)


def fit_private(
    model: Classifier,
    module: nn.Module,
    examples: Examples,
    config: DpConfig,
    mechanism: Mechanism,
    *,
    steps: int,
    lr: float,
    ema: float,
    draws: Draws,
    device: torch.device,
    entropy: Entropy = kernel_entropy,
    one_by_one: bool = False,
) -> tuple[str, ...]:
    """Train the parameters of `model` that require a gradient, in place; return their names, which may leave the site.

    Args:
        model: The model; `set_training` has chosen the parameters.
        module: The module that runs: the model itself, on one image per patient (a multiplicity of 1), or the layers
            that turn features into logits.
        examples: Training images by patient.
        config: Multiplicity and momentum.
        mechanism: Noise, rate and clip.
        steps: Number of steps, at most those reserved in the ledger.
        lr: Learning rate of plain SGD.
        ema: Decay of a running mean of the weights, which costs no privacy; 0: the last weights.
        draws: Poisson sample, images and dropout, but NOT the noise.
        device: Where to compute, in float64, which Apple's GPUs lack.
        entropy: Source of the noise.
        one_by_one: Compute each patient's gradient separately, without Opacus: for units with several images, and for
            layers that a batch may leave out.

    Raises:
        PrivacyError: A part of the model would mix patients, or Opacus cannot compute its gradients per patient.
    """
    check_private(model)
    _still(model.backbone)
    names = tuple(name for name, value in model.named_parameters() if value.requires_grad)
    trained = {name: value for name, value in model.named_parameters() if name in names}
    separate = nullcontext(module) if one_by_one else clipping(module, mechanism.max_grad_norm)
    with _double(module, device), separate as wrapped:
        sgd = torch.optim.SGD(trained.values(), lr=lr, momentum=config.momentum)
        optimizer = _KernelNoise(sgd, mechanism, entropy)
        mean, parts = {name: value.detach().clone() for name, value in trained.items()}, Parts("a private step")
        for step in range(steps):
            patients = poisson(draws, "drawn", step, examples.identities, mechanism.sample_rate)
            batch = examples.of(patients, config.multiplicity, step, draws)
            masks = _masks(model, batch[1], step, examples.identities[patients], draws)
            if isinstance(wrapped, Clipping) and isinstance(batch[0], torch.Tensor) and not step:
                with _only_own_draws(model, torch.ones_like(model.head.bias[:1]), device):
                    check_lengths(wrapped, batch[0], batch[1])
            with _only_own_draws(model, masks, device):
                _step(wrapped, optimizer, batch, model.dropout, parts)
            for name, value in trained.items():
                mean[name].lerp_(value.detach(), 1 - ema)
        if ema and steps:
            for name, value in trained.items():
                value.data.copy_(mean[name])
    return names


def private_mean(
    values: npt.NDArray[np.float32],
    identities: Ints,
    mechanism: Mechanism,
    *,
    step: int,
    draws: Draws,
    entropy: Entropy = kernel_entropy,
) -> torch.Tensor:
    """Return the noisy mean over patients of each patient's mean vector; it costs as much privacy as one more step.

    Args:
        values: N D; a patient's mean is clipped to `mechanism.max_grad_norm`.
        identities: Patient of each row, N.
        mechanism: Noise, rate and clip.
        step: Number of this mean, for the draws.
        draws: Poisson sample.
        entropy: Source of the noise.
    """
    known, which, counts = np.unique(identities, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), values.shape[1]))
    np.add.at(means, which, values / counts[which, None])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means *= np.minimum(1.0, mechanism.max_grad_norm / np.maximum(lengths, 1e-12))
    rows = poisson(draws, "centre", step, known, mechanism.sample_rate)
    total = torch.from_numpy(means[rows].sum(axis=0))
    std = mechanism.noise_multiplier * mechanism.max_grad_norm if mechanism.noise_multiplier else 0.0
    return ((total + gaussian(total, std, entropy)) / mechanism.expected).float()


def _still(backbone: nn.Module) -> None:
    """Switch off dropout and skipped layers inside the backbone, which draw one sequence for a whole batch."""
    for module in backbone.modules():
        if next(module.parameters(), None) is None:
            module.eval()


def _masks(model: Classifier, labels: torch.Tensor, step: int, identities: Ints, draws: Draws) -> torch.Tensor | None:
    """Return dropout masks for features of labels B M or B; None without dropout.

    Args:
        model: The model.
        labels: B M or B.
        step: Number of the step.
        identities: B.
        draws: Draws of the training.
    """
    if not model.dropout.p:
        return None
    shape = (*labels.shape[1:], model.head.in_features)
    return dropout_masks(draws, step, identities, shape, model.dropout.p).to(model.head.weight)


@contextmanager
def _only_own_draws(model: Classifier, masks: torch.Tensor | None, device: torch.device) -> Iterator[None]:
    """Use dropout with these masks inside the block.

    Raises:
        PrivacyError: A layer drew from torch's own generator, which is one sequence for all patients.
    """
    before, model.dropout.masks = _generators(device), masks
    try:
        yield
    finally:
        model.dropout.masks = None
        if any(not one.equal(other) for one, other in zip(before, _generators(device), strict=True)):
            raise PrivacyError(
                f"a layer of {model.name} draws random numbers for a whole batch, so one patient's presence would "
                "change the draws of others: choose another model.backbone, or train less of it (dp.stages)."
            )


def _generators(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [*states, torch.mps.get_rng_state()] if device.type == "mps" else states


@contextmanager
def _double(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Convert a module to float64 for the block, and back to float32.

    In float32 an image's gradient depends on the size of its batch (0.2 % of C in a deep network), and lengths of
    gradients that nearly cancel are wrong. Both would let a patient change the sum by more than C.
    """
    module.to(device, torch.float64)
    try:
        yield
    finally:
        module.float()


def _step(
    wrapped: nn.Module,
    optimizer: _KernelNoise,
    batch: tuple[Batch, torch.Tensor],
    dropout: PatientDropout,
    parts: Parts,
) -> None:
    """Take one noised step on the sum of the patients' clipped gradients; without a patient the step is noise only."""
    like = optimizer.params[0]
    inputs, labels, masks = batch[0].to(like), batch[1].to(like.device), dropout.masks
    if len(labels) and isinstance(wrapped, Clipping) and isinstance(inputs, torch.Tensor):
        sums = parts.run(len(labels), partial(_clipped_sums, wrapped, optimizer, inputs, labels, dropout, masks))
    elif len(labels):
        by_patient = partial(sums_one_by_one, wrapped, optimizer.params, optimizer.max_grad_norm)
        sums = parts.run(len(labels), lambda _: by_patient(inputs, labels, dropout, masks))
    else:
        sums = [torch.zeros_like(p) for p in optimizer.params]
    optimizer.zero_grad(set_to_none=True)
    for p, value in zip(optimizer.params, sums, strict=True):
        p.grad = value
    optimizer.step()


def _clipped_sums(
    wrapped: Clipping,
    optimizer: _KernelNoise,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    dropout: PatientDropout,
    masks: torch.Tensor | None,
    cut: Sequence[slice],
) -> list[torch.Tensor]:
    """Return the sum of the patients' clipped gradients for each trained tensor; the cut does not change the sum.

    Runs two backward passes: the first computes each patient's gradient length, the second their clipped sum.

    Args:
        wrapped: The module with Opacus's hooks.
        optimizer: The optimizer of its trained tensors.
        inputs: Inputs of the module, B ....
        labels: Labels B or B M.
        dropout: The dropout layer; it is given the masks of each part.
        masks: Dropout masks of all patients, B ..., or None.
        cut: The parts of the batch.
    """
    sums: list[torch.Tensor] = []
    wrapped.forget()
    wrapped.enable_hooks()
    for part in cut:
        dropout.masks = masks if masks is None else masks[part]
        optimizer.zero_grad(set_to_none=True)
        losses = loss_by_patient(wrapped(inputs[part]), labels[part])
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        factors = wrapped.get_clipping_coef()
        optimizer.zero_grad(set_to_none=True)
        wrapped.disable_hooks()
        (factors * losses).sum().backward()
        wrapped.enable_hooks()
        found = [p.grad for p in optimizer.params]
        sums = found if not sums else [total + value for total, value in zip(sums, found, strict=True)]
    return sums
