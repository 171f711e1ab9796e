"""Choosing a device, and batches in parts where a memory is too small; tests/gpu holds what needs a GPU."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cdtl_core.config import ComputeConfig, DpConfig, ModelConfig, RunConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import ConfigError
from cdtl_core.models.draws import keyed_draws
from cdtl_core.models.exams import Batch
from cdtl_core.models.model import build_classifier, frozen_stages, set_training
from cdtl_core.privacy.dp_sgd import fit_private
from cdtl_core.privacy.mechanism import Mechanism
from cdtl_core.training.device import CPU, Hardware, choose_device, computing, hardware_of, open_hardware
from cdtl_core.training.objective import Objective
from cdtl_core.training.parts import Parts
from cdtl_core.training.patient_inputs import Examples
from cdtl_core.training.train import fit


class Limited(Objective):
    """The cross-entropy on a device whose memory holds so many images."""

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, list[int]()

    def loss(self, model: nn.Module, images: Batch, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("so it ends on a GPU")
        self.seen.append(len(images))
        return super().loss(model, images, labels, weight)


def trained(objective: Objective, steps: int = 3) -> tuple[nn.Module, float]:
    """A network without statistics over a batch, on 22 images of one class and 6 of the other."""
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(backbone="test_vit", weights="random", dropout=0.0), 2, 160)
    pixels = np.random.default_rng(0).integers(0, 256, (28, 1, 160, 160), np.uint8)
    fold = Fold(pixels, np.arange(28), (np.arange(28) < 6).astype(np.int64), np.arange(28))
    config = TrainConfig(steps=steps, batch_size=14, lr=1e-3)
    report = fit(model, fold, config, epoch=0, rng=np.random.default_rng(0), device=CPU, objective=objective)
    return model, report.loss


def test_a_batch_in_parts_is_the_same_step(caplog: pytest.LogCaptureFixture) -> None:
    """Weighted by class, in parts of different weight; the log says once what happened."""
    (whole, loss), limited = trained(Limited(14)), Limited(4)
    with caplog.at_level(logging.WARNING, "cdtl.training"):
        halved, same_loss = trained(limited)
    assert limited.seen == [3, 4, 3, 4] * 3
    assert same_loss == pytest.approx(loss, abs=1e-5)
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
    told = [record.getMessage() for record in caplog.records]
    assert [text.split("computed in ")[1] for text in told] == ["2 parts", "4 parts"]


def test_a_memory_too_small_for_the_smallest_part_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match="a training batch, not even 2 at a time: free memory"):
        trained(Limited(1))


def test_another_error_is_passed_on() -> None:
    def broken(_cut: object) -> None:
        raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        Parts("nothing").run(4, broken)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_parts_cover_a_batch_once(size: int) -> None:
    for count in (1, 2, 4, 128):
        parts = Parts("nothing")
        parts.count = count
        rows = [row for part in parts.cut(size) for row in range(size)[part]]
        assert rows == list(range(size))


def privately(most: int) -> nn.Module:
    torch.manual_seed(0)
    config = RunConfig(
        model=ModelConfig(backbone="test_resnet", weights="random", dropout=0.3), dp=DpConfig(enabled=True, stages=2)
    )
    model = build_classifier(config.model, 2, 32, frozen_norms=True)
    set_training(model, freeze=frozen_stages(model, config))
    model.dropout.register_forward_hook(_limit(most))
    images = torch.randn(12, 3, 32, 32)
    examples = Examples(np.arange(12), np.arange(12) % 2, lambda _step, _who, rows: images[rows])
    fit_private(
        model, model, examples, DpConfig(multiplicity=1), Mechanism(0.0, 1.0, 0.2, 12),
        steps=3, lr=0.5, ema=0.0, draws=keyed_draws(bytes(32)), device=CPU,
    )  # fmt: skip
    return model


def _limit(most: int) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if len(output) > most:
            raise torch.OutOfMemoryError("so it ends on a GPU")

    return hook


def test_a_private_step_in_parts_has_the_same_clipped_sum() -> None:
    """With dropout by patient; the memory ends behind layers that have kept what they were given."""
    whole, halved = privately(12), privately(5)
    for (name, one), other in zip(whole.named_parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_what_is_not_on_this_machine_is_refused() -> None:
    for wanted in ("cuda:99", "GPU-00000000-0000-0000-0000-000000000000"):
        with pytest.raises(ConfigError, match="is not on this machine, which has cpu"):
            choose_device(wanted)
    with pytest.raises(ConfigError, match=r"compute\.precision"):
        open_hardware("cpu", ComputeConfig(precision="bfloat16"))


def test_a_cpu_takes_no_setting_of_a_gpu() -> None:
    found = open_hardware("cpu", ComputeConfig(deterministic=True, memory_share=0.5))
    assert found == hardware_of(CPU) == Hardware(CPU)
    with computing(found):
        assert not torch.is_autocast_enabled()
        assert not torch.are_deterministic_algorithms_enabled()
