"""DP-SGD step by step: against plain SGD, its clip, its noise, its refusals, and its side effects."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cdtl_core.config import DpConfig, ModelConfig, RunConfig, TaskConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import PrivacyError
from cdtl_core.models.draws import keyed_draws, poisson
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import Classifier, build_classifier, frozen_stages, set_training
from cdtl_core.models.noise import gaussian, kernel_entropy
from cdtl_core.privacy.clipping import check_private
from cdtl_core.privacy.dp_sgd import fit_private, private_mean
from cdtl_core.privacy.mechanism import Mechanism, check_terms, without_noise
from cdtl_core.training.patient_inputs import Examples, patient_exams

CPU = torch.device("cpu")
DRAWS = keyed_draws(bytes(32))
CONFIG = ModelConfig(backbone="test_resnet", weights="random", dropout=0.0)


def classifier(*, stages: int = 0, adapter: int = 0, pooling: str = "mean") -> Classifier:
    network = CONFIG.model_copy(update={"adapter": adapter, "pooling": pooling})
    config = RunConfig(task=TaskConfig(unit="exam"), model=network, dp=DpConfig(enabled=True, stages=stages))
    torch.manual_seed(0)
    model = build_classifier(config.model, 2, 32, frozen_norms=True)
    set_training(model, freeze=frozen_stages(model, config))
    return model


def features(count: int, model: Classifier) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, model.head.in_features)).astype(np.float32)


def fitted(model: Classifier, inputs: np.ndarray, labels: np.ndarray, mechanism: Mechanism, **more: object) -> None:
    given = {"config": DpConfig(multiplicity=1), "steps": 5, "lr": 0.1, "ema": 0.0, **more}
    patients = given.pop("patients", np.arange(len(labels)))
    fit_private(
        model,
        model.end(),
        Examples(patients, labels, lambda _step, _patients, rows: torch.from_numpy(inputs[rows])),  # type: ignore[arg-type]
        mechanism=mechanism,
        draws=DRAWS,
        device=CPU,
        **given,  # type: ignore[arg-type]
    )


def test_zero_noise_and_infinite_clip_are_plain_sgd() -> None:
    model, labels = classifier(adapter=3), np.arange(40) % 2
    inputs, twin = features(40, model), copy.deepcopy(model)
    fitted(model, inputs, labels, without_noise(40))
    sgd = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(5):
        sgd.zero_grad()
        cross_entropy(twin.end()(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()  # type: ignore[no-untyped-call]
        sgd.step()
    for (name, got), wanted in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=name)
    assert float(model.head.weight.detach().abs().max()) > 0


@pytest.mark.parametrize("multiplicity", [1, 3])
def test_one_patient_after_the_other_gives_what_opacus_gives(multiplicity: int) -> None:
    one, other = classifier(adapter=3), classifier(adapter=3)
    patients = np.repeat(np.arange(13), 3)
    inputs, labels = features(39, one), patients % 2
    more = {"config": DpConfig(multiplicity=multiplicity), "patients": patients}
    for model, separate in ((one, False), (other, True)):
        fitted(model, 3 * inputs, labels, Mechanism(0.0, 0.7, 0.3, 13), one_by_one=separate, **more)
    for (name, got), wanted in zip(other.named_parameters(), one.named_parameters(), strict=True):
        torch.testing.assert_close(got, wanted[1], rtol=1e-4, atol=1e-6, msg=name)


def test_exams_without_noise_and_clip_are_plain_sgd_on_the_patients_mean_loss() -> None:
    model = classifier(pooling="attention")
    twin, rng = copy.deepcopy(model), np.random.default_rng(1)
    lengths, patients = np.array([2, 1, 4, 3, 1, 2]), np.array([0, 0, 1, 2, 2, 2])
    values = torch.from_numpy(rng.standard_normal((13, model.head.in_features)))
    fold = Fold(
        np.zeros((13, 1, 1, 1), np.uint8), np.arange(13), np.array([0, 1, 1, 0, 0, 1]), patients, lengths=lengths
    )
    inputs = patient_exams(lambda _step, _who, places: values[places], fold, 9, DRAWS)
    examples = Examples(patients, fold.labels, inputs)
    fit_private(model, model.end(), examples, DpConfig(multiplicity=6), without_noise(3), steps=4, lr=0.3, ema=0.0,
                draws=DRAWS, device=CPU, one_by_one=True)  # fmt: skip
    sgd = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.3, momentum=0.9)
    twin.double()
    for _ in range(4):
        sgd.zero_grad()
        losses = cross_entropy(
            twin.end()(Exams(values, tuple(lengths))), torch.from_numpy(fold.labels), reduction="none"
        )
        torch.stack([losses[patients == patient].mean() for patient in range(3)]).mean().backward()
        sgd.step()
    for (name, got), wanted in zip(model.named_parameters(), twin.float().parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=name)
    assert model.pooling.score.weight.any()  # type: ignore[union-attr]


def test_a_patient_counts_once_however_many_images_she_has() -> None:
    labels = np.array([0, 1, 1, 1])
    one, many = classifier(), classifier()
    inputs = features(2, one)
    fitted(one, inputs, labels[:2], without_noise(2), steps=1)
    repeated = np.concatenate([inputs, inputs[1:], inputs[1:]])
    config = DpConfig(multiplicity=3)
    fitted(many, repeated, labels, without_noise(2), steps=1, patients=np.array([0, 1, 1, 1]), config=config)
    torch.testing.assert_close(one.head.weight, many.head.weight)


def test_the_clip_bounds_what_one_patient_can_move() -> None:
    model = classifier(adapter=2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    fitted(model, 100 * features(1, model), np.array([1]), Mechanism(0.0, 1.0, 0.3, 1), steps=1, lr=1.0)
    moved = torch.cat([(value.detach() - before[name]).flatten() for name, value in model.named_parameters()])
    assert float(moved.norm()) == pytest.approx(0.3, rel=1e-3)


def test_the_noise_has_the_size_that_the_accountant_assumes() -> None:
    """No patient is drawn, so a step is only noise: sigma C / (q n) on every coordinate."""
    model, labels = classifier(adapter=64), np.zeros(10, np.int64)
    before = model.adapter.down.weight.detach().clone()  # type: ignore[union-attr]
    fitted(model, features(10, model), labels, Mechanism(2.0, 1e-12, 0.5, 10**13), steps=1, lr=1.0)
    noise = (model.adapter.down.weight.detach() - before).flatten()  # type: ignore[union-attr]
    assert len(noise) > 4000
    assert float(noise.std()) == pytest.approx(2.0 * 0.5 / 10, rel=0.05)
    assert abs(float(noise.mean())) < 0.01


def test_the_seed_does_not_feed_the_noise() -> None:
    one, two = classifier(), classifier()
    labels = np.arange(20) % 2
    for model in (one, two):
        fitted(model, features(20, model), labels, Mechanism(1.0, 1.0, 0.5, 20))
    assert not one.head.weight.equal(two.head.weight)


def test_a_running_mean_of_the_weights_is_no_step() -> None:
    last, mean = classifier(), classifier()
    labels = np.arange(20) % 2
    fitted(last, features(20, last), labels, without_noise(20), steps=1)
    fitted(mean, features(20, mean), labels, without_noise(20), steps=1, ema=0.75)
    torch.testing.assert_close(mean.head.weight, last.head.weight * 0.25)


def test_the_model_is_left_without_a_trace() -> None:
    model = classifier(stages=1)
    images = torch.randn(6, 3, 32, 32)
    examples = Examples(np.arange(6), np.arange(6) % 2, lambda _step, _patients, rows: images[rows])
    mechanism = Mechanism(1.0, 1.0, 0.5, 6)
    given = {"steps": 1, "lr": 0.1, "ema": 0.0, "draws": DRAWS, "device": CPU}
    names = fit_private(model, model, examples, DpConfig(multiplicity=1), mechanism, **given)  # type: ignore[arg-type]
    assert names == tuple(name for name, value in model.named_parameters() if value.requires_grad)
    assert {name.split(".")[0] for name in names} == {"backbone", "head"}
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not any(hasattr(p, key) for p in model.parameters() for key in ("grad_sample", "summed_grad"))
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_norm_is_refused_frozen_weights_or_not() -> None:
    model = build_classifier(CONFIG, 2, 32)
    model.requires_grad_(False)
    with pytest.raises(PrivacyError, match="frozen_norms=True"):
        check_private(model)


def test_layers_without_a_gradient_for_each_patient_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"model\.backbone"):
        check_private(nn.Sequential(nn.LSTM(4, 4)))


@pytest.mark.parametrize(("delta", "patients"), [(0.01, 100), (0.5, 10)])
def test_a_delta_that_gives_a_patient_away_is_refused(delta: float, patients: int) -> None:
    with pytest.raises(PrivacyError, match=r"dp\.target_delta"):
        check_terms(DpConfig(enabled=True, target_delta=delta), patients)
    check_terms(DpConfig(enabled=True, target_delta=0.99 / patients), patients)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"privacy\.exempt"):
        check_terms(DpConfig(enabled=True), 9)


def test_the_private_mean_is_the_clipped_mean_over_patients() -> None:
    values = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 0.4]], np.float32)
    found = private_mean(values, np.array([0, 0, 1]), Mechanism(0.0, 1.0, 1.0, 4), step=0, draws=DRAWS)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.4]) / 4)


def test_kernel_noise_is_standard_normal_and_never_infinite() -> None:
    noise = gaussian(torch.zeros(20000), 3.0, kernel_entropy).numpy()
    assert noise.std() == pytest.approx(3.0, rel=0.05)
    assert abs(noise.mean()) < 0.1
    assert np.mean(np.abs(noise) > 6.0) == pytest.approx(0.0455, abs=0.01)
    for byte in (b"\x00", b"\xff"):
        assert torch.isfinite(gaussian(torch.zeros(3), 1.0, lambda count, byte=byte: byte * count)).all()


def test_poisson_draws_are_each_patient_for_herself() -> None:
    everyone = np.arange(1000)
    counts = [len(poisson(DRAWS, "drawn", step, everyone, 0.3)) for step in range(50)]
    assert np.mean(counts) == pytest.approx(300, abs=15)
    assert np.var(counts) == pytest.approx(210, rel=0.9)
    assert len(poisson(DRAWS, "drawn", 0, everyone, 1.0)) == 1000
