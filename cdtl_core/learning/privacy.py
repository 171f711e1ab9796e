"""DP-SGD with Opacus: a patient's gradient is clipped, noise is added, and only what that updated may leave.

Steps are plain SGD on the noised gradient. With zero noise and no clip they are plain SGD on the patients' mean loss,
which is what a site exempt from privacy takes on the same part of the network.

Sources: Abadi et al. 2016 (DP-SGD); De et al. 2022 (a gradient averaged over an image's augmentations, then clipped).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.functional import cross_entropy

from cdtl_core.config import DpConfig
from cdtl_core.errors import PrivacyError
from cdtl_core.learning.inputs import Inputs, Ints
from cdtl_core.learning.mechanism import Mechanism
from cdtl_core.learning.model import Classifier
from cdtl_core.learning.noise import Entropy, drawn, gaussian, kernel_entropy

__all__ = ["Examples", "check_private", "fit_private", "private_mean"]


class Examples:
    """Training images by patient.

    Args:
        patients: Number of each image's patient, N.
        labels: N.
        inputs: Of the module, by row.
    """

    def __init__(self, patients: Ints, labels: Ints, inputs: Inputs) -> None:
        _, which = np.unique(patients, return_inverse=True)
        self._order = np.argsort(which, kind="stable")
        self._counts = np.bincount(which)
        self._first = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._labels, self._inputs = labels, inputs

    @property
    def num_patients(self) -> int:
        """Patients there are, which is not published."""
        return len(self._counts)

    def of(self, patients: Ints, multiplicity: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs B M ... and labels B M: M images of each patient, in turn from a random one; for M = 1 B ... and B."""
        starts = rng.integers(self._counts[patients]) if len(patients) else np.empty(0, np.int64)
        turns = (starts[:, None] + np.arange(multiplicity)) % self._counts[patients][:, None]
        rows = self._order[(self._first[patients][:, None] + turns).reshape(-1)]
        inputs, labels = self._inputs(rows), torch.from_numpy(self._labels[rows])
        if multiplicity == 1:
            return inputs, labels
        shape = (len(patients), multiplicity)
        return inputs.view(*shape, *inputs.shape[1:]), labels.view(shape)


class _KernelNoise(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus's optimizer for gradients that are clipped already; the noise is the kernel's."""

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
        """Noise on each summed gradient, once."""
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
    rng: np.random.Generator,
    device: torch.device,
    entropy: Entropy = kernel_entropy,
) -> tuple[str, ...]:
    """Train those parameters of `model` that want a gradient, in place; returns their names: what privacy paid for.

    Args:
        model: Whose parameters are trained; `set_training` has chosen them.
        module: What is run: the model itself, on one image of each patient (a multiplicity of 1), or the end of it
            that turns features into logits.
        examples: Training images by patient.
        config: Multiplicity and momentum.
        mechanism: Noise, rate and clip.
        steps: As reserved in the ledger, or fewer.
        lr: Of plain SGD.
        ema: Decay of a running mean of the weights, which costs no privacy; 0: the last weights.
        rng: Which images, augmentations and dropout; NOT the noise and not who is drawn.
        device: Where to compute.
        entropy: Where noise and draws come from.

    Raises:
        PrivacyError: A part of the model would mix patients, or Opacus cannot take its gradients one by one.
    """
    check_private(model)
    names = tuple(name for name, value in model.named_parameters() if value.requires_grad)
    trained = {name: value for name, value in model.named_parameters() if name in names}
    with _clipping(module.to(device), mechanism.max_grad_norm) as wrapped:
        sgd = torch.optim.SGD(trained.values(), lr=lr, momentum=config.momentum)
        optimizer = _KernelNoise(sgd, mechanism, entropy)
        mean = {name: value.detach().clone() for name, value in trained.items()}
        for _ in range(steps):
            patients = drawn(examples.num_patients, mechanism.sample_rate, entropy)
            _step(wrapped, optimizer, examples.of(patients, config.multiplicity, rng), device)
            for name, value in trained.items():
                mean[name].lerp_(value.detach(), 1 - ema)
        if ema and steps:
            for name, value in trained.items():
                value.data.copy_(mean[name])
    return names


def private_mean(
    values: npt.NDArray[np.float32], patients: Ints, mechanism: Mechanism, entropy: Entropy = kernel_entropy
) -> torch.Tensor:
    """The mean over patients of each one's mean vector, with noise: as dear as one step of the same mechanism.

    Args:
        values: N D; a patient's mean is clipped to `mechanism.max_grad_norm`.
        patients: Number of each row's patient, N.
        mechanism: Of the step.
        entropy: Where noise and draws come from.
    """
    _, which, counts = np.unique(patients, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), values.shape[1]))
    np.add.at(means, which, values / counts[which, None])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means *= np.minimum(1.0, mechanism.max_grad_norm / np.maximum(lengths, 1e-12))
    rows = drawn(len(means), mechanism.sample_rate, entropy)
    total = torch.from_numpy(means[rows].sum(axis=0))
    std = mechanism.noise_multiplier * mechanism.max_grad_norm if mechanism.noise_multiplier else 0.0
    return ((total + gaussian(total, std, entropy)) / mechanism.expected).float()


def check_private(model: nn.Module) -> None:
    """Refuse a model whose training would mix patients, or whose gradients cannot be had one by one.

    Raises:
        PrivacyError: The sentence names the module and the way out.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and (module.track_running_stats or module.training):
            raise PrivacyError(
                f"'{name}' ({type(module).__name__}) takes statistics over all patients of a batch, frozen weights or "
                "not: build the classifier with frozen_norms=True, or choose a backbone with 2-d batch norms."
            )
    modes = {module: module.training for module in model.modules()}
    errors = ModuleValidator.validate(model.train(), strict=False)  # it refuses any other mode
    for module, mode in modes.items():
        module.training = mode
    if errors:
        raise _no_samples(errors[0])


def _step(
    wrapped: GradSampleModuleFastGradientClipping,
    optimizer: _KernelNoise,
    batch: tuple[torch.Tensor, torch.Tensor],
    device: torch.device,
) -> None:
    """Two passes back: the first finds the length of each patient's gradient, the second adds them up, clipped.

    Source: Li et al. 2022, ghost clipping; Lee and Kifer 2021 for layers it has no formula for.
    """
    inputs, labels = batch
    optimizer.zero_grad(set_to_none=True)
    if len(labels):
        losses = _loss_by_patient(wrapped(inputs.to(device)), labels.to(device))
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        factors = wrapped.get_clipping_coef()
        optimizer.zero_grad(set_to_none=True)
        wrapped.disable_hooks()
        (factors * losses).sum().backward()
        wrapped.enable_hooks()
    else:
        for p in optimizer.params:  # nobody was drawn: a step of noise alone
            p.grad = torch.zeros_like(p)
    optimizer.step()


def _loss_by_patient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over each patient's images: logits B M K or B K to B."""
    losses = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view(len(labels), -1).mean(dim=1)


@contextmanager
def _clipping(module: nn.Module, max_grad_norm: float) -> Iterator[GradSampleModuleFastGradientClipping]:
    """Opacus's hooks on a module for the block; it is left as it was.

    Raises:
        PrivacyError: A layer that is trained has no gradient per sample.
    """
    try:
        wrapped = GradSampleModuleFastGradientClipping(module, max_grad_norm=max_grad_norm, loss_reduction="sum")
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


def _no_samples(error: Exception) -> PrivacyError:
    return PrivacyError(
        f"Opacus cannot take this network's gradients patient by patient ({str(error).splitlines()[0][:120]}): "
        "choose another model.backbone, or train less of it (dp.stages)."
    )
