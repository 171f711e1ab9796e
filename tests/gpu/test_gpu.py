"""A CUDA device computes the same as a CPU: `make gpu` runs these tests on a machine with one."""

import copy
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cdtl_core.config import (
    AugmentConfig,
    ComputeConfig,
    DpConfig,
    ModelConfig,
    RunConfig,
    SimulationConfig,
    TrainConfig,
)
from cdtl_core.data.cohort import Fold
from cdtl_core.data.transforms import Augmentation, _rendered, augment, normalise, to_unit
from cdtl_core.errors import ConfigError
from cdtl_core.inference.export import export_onnx
from cdtl_core.models.draws import keyed_draws
from cdtl_core.models.model import Classifier, build_classifier, build_initial_weights, frozen_stages, set_training
from cdtl_core.models.weights import load_into
from cdtl_core.privacy.dp_sgd import Examples, fit_private
from cdtl_core.privacy.mechanism import Mechanism
from cdtl_core.results.report import Report
from cdtl_core.simulation.simulate import simulate
from cdtl_core.training.batches import ahead
from cdtl_core.training.device import CPU, Hardware, Where, choose_device, open_hardware
from cdtl_core.training.features import feature_views
from cdtl_core.training.inputs import Entry
from cdtl_core.training.saliency import grad_cam
from cdtl_core.training.train import class_weights, fit, refresh_norms, score
from cdtl_core.training.views import Views

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is false"),
]

SIZE = 64
GPU = torch.device("cuda", 0)
EXACT = Hardware(GPU)
MIXED = Hardware(GPU, bfloat16=True)
STILL = AugmentConfig(noise=0)
"""Pixel noise is drawn by the device, so what is drawn after it differs; the first batch without it does not."""
CHANGED = AugmentConfig(invert=0.5, gamma=0.5, blur=0.5)
NO_CHANGE = AugmentConfig(flip=0, rotate_deg=0, translate=0, scale=0, brightness=0, contrast=0, noise=0)
BACKBONES = ["efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"]


def images_of(count: int = 24, size: int = SIZE, channels: int = 1) -> Fold:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    coarse = rng.integers(0, 200, (count, channels, 8, 8), np.uint8).repeat(size // 8, 2).repeat(size // 8, 3)
    fine = rng.integers(0, 40, coarse.shape, np.uint8)  # no flat places, which norms would magnify
    pixels = (coarse // 2 + fine + 40 * labels[:, None, None, None]).astype(np.uint8)
    return Fold(pixels, np.arange(count), labels.astype(np.int64), np.arange(count))


def network(backbone: str = "efficientnet_lite0", **more: Any) -> Classifier:
    """Return the same weights at each call, with a trained head."""
    torch.manual_seed(0)
    private = more.pop("frozen_norms", False)
    config = ModelConfig(backbone=backbone, weights="random", **{"dropout": 0.0, **more})
    model = build_classifier(config, 2, SIZE, frozen_norms=private)
    torch.manual_seed(1)
    if backbone == "efficientnet_lite0" and not private:
        load_into(model, build_initial_weights(config.model_copy(update={"weights": "imagenet"}), 0, SIZE))
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


def trained(where: Where, config: TrainConfig, model: Classifier | None = None, **more: Any) -> Classifier:
    model = model or network()
    fit(model, more.pop("fold", images_of()), config, epoch=0, rng=np.random.default_rng(0), device=where, **more)
    return model


def gradient(model: Classifier) -> torch.Tensor:
    """Return the gradient of the last step as one vector on the CPU."""
    return torch.cat([p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The length of a difference as a share of the second vector's length."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def same_bits(one: Classifier, other: Classifier) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(value.cpu().equal(states[1][name].cpu()) for name, value in states[0].items())


@pytest.fixture
def small_memory() -> Iterator[Callable[[int], None]]:
    """Leave this process so many more bytes of the GPU than it has now."""

    def allow(more: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(GPU).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + more) / total, GPU)

    yield allow
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_scores_are_the_cpus(backbone: str) -> None:
    model = network(backbone)
    expected = score(model, images_of(70), device=CPU)
    np.testing.assert_allclose(score(model, images_of(70), device=EXACT), expected, atol=2e-4)
    mixed = score(model, images_of(70), device=MIXED)
    assert 0 < np.linalg.norm(mixed - expected) < 0.15 * np.linalg.norm(expected)


def true_gradient(model: Classifier, fold: Fold) -> torch.Tensor:
    """The gradient of the whole fold's loss, computed in float64."""
    model, weight = copy.deepcopy(model).double(), class_weights(fold.labels, 2).double()
    set_training(model, freeze=0)
    images = normalise(to_unit(fold.pixels), model.mean, model.std).double()
    cross_entropy(model(images), torch.from_numpy(fold.labels), weight).backward()  # type: ignore[no-untyped-call]
    return gradient(model)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_gradient_of_a_training_step_is_as_exact_as_the_cpus(backbone: str) -> None:
    """Both are compared with float64: a network magnifies the rounding of either."""
    fold, config = images_of(16), TrainConfig(steps=1, batch_size=16, augment=NO_CHANGE)
    expected = true_gradient(network(backbone), fold)
    gpu, cpu, mixed = (trained(where, config, network(backbone), fold=fold) for where in (EXACT, CPU, MIXED))
    assert apart(gradient(gpu), expected) < 5 * apart(gradient(cpu), expected) + 1e-4
    if backbone != "efficientnet_lite0":  # it magnifies rounding so much that float32 is 1 % off, and bfloat16 useless
        assert apart(gradient(mixed), expected) < 0.35
    for name in [name for name in cpu.state_dict() if "running" in name]:
        torch.testing.assert_close(gpu.state_dict()[name].cpu(), cpu.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_a_training_has_the_same_loss_and_norms_as_on_the_cpu() -> None:
    found = []
    for where in (EXACT, CPU):
        model = network("resnet18")
        config = TrainConfig(steps=12, batch_size=8, lr=1e-4, ema=0.5, augment=NO_CHANGE)
        loss = fit(model, images_of(), config, epoch=0, rng=np.random.default_rng(0), device=where).loss
        refresh_norms(model, images_of(), freeze=0, device=where)
        found.append((loss, model.state_dict()["backbone.bn1.running_mean"].cpu()))
    assert found[0][0] == pytest.approx(found[1][0], abs=5e-3)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-3)


def test_in_bfloat16_each_step_starts_from_the_weights_of_the_one_before() -> None:
    """Torch keeps the weights that it has cast: a loop inside one autocast would train on those of the first step."""
    config, found = TrainConfig(steps=15, batch_size=24, lr=1e-3, augment=NO_CHANGE), []
    for where in (MIXED, EXACT):
        model = network("resnet18")
        before = score(model, images_of(), device=where)
        found.append(score(trained(where, config, model), images_of(), device=where) - before)
    assert np.linalg.norm(found[1]) > 1
    assert np.linalg.norm(found[0] - found[1]) < 0.25 * np.linalg.norm(found[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_changed_as_on_the_cpu(channels: int) -> None:
    whole = torch.rand(16, channels, 40, 40, generator=torch.Generator().manual_seed(0))
    for step, change in ((augment, STILL), (_rendered, CHANGED)):
        widths = Augmentation(**change.model_dump())
        found = [step(place, widths, torch.Generator().manual_seed(3)).cpu() for place in (whole.to(GPU), whole)]
        torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)
        assert not torch.allclose(found[1], whole, atol=1e-2)
    noisy = augment(torch.full((4, 1, 64, 64), 0.5, device=GPU), Augmentation(**AugmentConfig().model_dump()),
                    torch.Generator().manual_seed(3))  # fmt: skip
    assert noisy.is_cuda
    assert float(noisy.std()) > 0.005


@pytest.mark.parametrize("levels", [(), (3, 5)])
def test_features_are_the_cpus_and_have_a_key_of_their_own(levels: tuple[int, ...], tmp_path: Path) -> None:
    """A cohort of 70 images with views: several batches on the GPU, two files."""
    given: dict[str, Any] = {"views": 3, "change": CHANGED, "seed": 0, "cache": tmp_path}
    found = [
        feature_views(network(levels=levels), images_of(70), device=where, **given) for where in (MIXED, MIXED, CPU)
    ]
    assert found[0].shape == (70, 4, found[2].shape[2])
    assert np.array_equal(found[0], found[1])  # read from disk
    scale = np.abs(found[2]).max()
    assert np.abs(found[0].astype(np.float32) - found[2].astype(np.float32)).max() < 2e-3 * scale
    assert len(list(tmp_path.iterdir())) == 2


def test_heads_on_kept_features_are_trained_on_the_cpu_to_the_same_bits() -> None:
    """Given the same features; and with those that a GPU gives, up to their rounding."""
    rng = np.random.default_rng(0)
    kept = rng.standard_normal((24, 3, 1280)).astype(np.float16)
    fold = Fold(kept, np.arange(24), np.arange(24) % 2, np.arange(24))  # type: ignore[arg-type]
    config, entry = (
        TrainConfig(steps=30, batch_size=8, freeze=9, views=2, augment=STILL),
        Entry(None, Views(2, 0, STILL)),
    )
    one, two = (trained(where, config, network(dropout=0.2), fold=fold, entry=entry) for where in (MIXED, CPU))
    assert same_bits(one, two)
    scores = [score(model, fold, device=where, entry=entry) for model, where in ((one, MIXED), (two, CPU))]
    assert np.array_equal(*scores)  # type: ignore[arg-type]


def test_heads_on_features_of_the_gpu_are_the_cpus(tmp_path: Path) -> None:
    config = TrainConfig(steps=30, batch_size=8, freeze=9, views=2, augment=STILL)
    for cache in (tmp_path, None):
        entry = Entry(None, Views(2, 0, STILL), cache)
        one, two = (trained(where, config, network(levels=(3, 5)), entry=entry) for where in (MIXED, CPU))
        assert apart(one.head.weight.detach().cpu(), two.head.weight.detach()) < 2e-2
        left, right = (score(m, images_of(), device=w, entry=entry) for m, w in ((one, MIXED), (two, CPU)))
        np.testing.assert_allclose(left, right, atol=1e-2)


def test_stages_behind_kept_activations_are_trained_as_on_the_cpu(tmp_path: Path) -> None:
    config = TrainConfig(steps=1, batch_size=12, freeze=4, views=2, augment=STILL)
    for cache in (tmp_path, None):
        entry = Entry(4, Views(2, 0, STILL), cache)
        one, two = (trained(where, config, network("resnet18"), entry=entry) for where in (EXACT, CPU))
        assert apart(gradient(one), gradient(two)) < 1e-2
        for model, where in ((one, EXACT), (two, CPU)):
            refresh_norms(model, images_of(), freeze=4, device=where, entry=entry)
        left, right = (score(m, images_of(), device=w, entry=entry) for m, w in ((one, EXACT), (two, CPU)))
        np.testing.assert_allclose(left, right, atol=5e-2)


def privately(where: torch.device, *, multiplicity: int = 1, patients: int = 12) -> Classifier:
    """Three steps of DP-SGD without noise on the last stages, with dropout and a clip that bites."""
    model = network("test_resnet", frozen_norms=True, dropout=0.2)
    config = RunConfig(dp=DpConfig(enabled=True, stages=2))
    set_training(model, freeze=frozen_stages(model, config))
    images = torch.randn(patients, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    examples = Examples(np.arange(patients), np.arange(patients) % 2, lambda _step, _who, rows: images[rows])
    fit_private(
        model, model, examples, DpConfig(multiplicity=multiplicity), Mechanism(0.0, 0.9, 0.2, patients),
        steps=3, lr=0.5, ema=0.0, draws=keyed_draws(bytes(32)), device=where,
    )  # fmt: skip
    return model


def test_private_steps_without_noise_are_the_cpus() -> None:
    one, two = privately(GPU), privately(CPU)
    for name, value in one.named_parameters():
        torch.testing.assert_close(value.detach().cpu(), two.get_parameter(name).detach(), rtol=1e-5, atol=1e-7)
    start = network("test_resnet", frozen_norms=True).head.weight
    assert apart(two.head.weight.detach(), start.detach()) > 1e-3


def test_grad_cam_is_the_cpus() -> None:
    model, images = network(), torch.randn(3, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    expected = grad_cam(model, images, 1)
    model.to(GPU)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = grad_cam(model, images.to(GPU), 1)
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found.cpu(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "vit_tiny_patch16_224"])
def test_deterministic_trainings_have_the_same_bits(backbone: str) -> None:
    hardware = open_hardware("cuda:0", ComputeConfig(deterministic=True))
    config = TrainConfig(steps=8, batch_size=16)
    assert same_bits(*(trained(hardware, config, network(backbone, dropout=0.2)) for _ in range(2)))
    assert not torch.are_deterministic_algorithms_enabled()  # outside, torch is as it was


def test_a_network_that_cannot_be_deterministic_is_refused_with_a_sentence() -> None:
    hardware = open_hardware("cuda:0", ComputeConfig(deterministic=True))
    with pytest.raises(ConfigError, match=r"compute\.deterministic"):
        trained(hardware, TrainConfig(steps=1, batch_size=4), network("alexnet"))


def test_a_batch_that_the_memory_does_not_hold_is_halved(
    small_memory: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Same gradient, same scores, and the log says so. A vision transformer has no norms over a batch."""
    fold, config = images_of(64, 224), TrainConfig(steps=1, batch_size=64, augment=NO_CHANGE)

    def run() -> tuple[torch.Tensor, np.ndarray]:
        torch.manual_seed(0)
        model = build_classifier(ModelConfig(backbone="vit_tiny_patch16_224", weights="random", dropout=0.0), 2, 224)
        torch.nn.init.normal_(model.head.weight, std=0.1)
        trained(EXACT, config, model, fold=fold)
        return gradient(model), score(model, fold, device=EXACT)

    torch.cuda.reset_peak_memory_stats(GPU)
    before = torch.cuda.memory_allocated(GPU)
    whole, scores = run()
    needed = torch.cuda.max_memory_allocated(GPU) - before
    small_memory(int(0.6 * needed))
    with caplog.at_level(logging.WARNING, "cdtl.training"):
        halved, again = run()
    assert "too small for a training batch of 64 at once: batches are now computed in 2 parts" in caplog.text
    assert apart(halved, whole) < 1e-3
    np.testing.assert_allclose(again, scores, atol=1e-2)
    small_memory(2**26)
    with pytest.raises(ConfigError, match="the GPU's memory is too small"):
        run()


def test_a_gpu_is_chosen_by_index_and_by_uuid() -> None:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    uuid = next(part for part in listed.replace(")", " ").split() if part.startswith("GPU-"))
    assert choose_device("auto") == choose_device("cuda") == choose_device("cuda:0") == GPU
    assert choose_device(uuid).type == "cuda"
    assert str(torch.cuda.get_device_properties(choose_device(uuid)).uuid) in uuid
    for wrong in ("cuda:99", "GPU-" + "0" * 36):
        with pytest.raises(ConfigError, match="is not on this machine"):
            choose_device(wrong)


def test_batches_are_made_ahead_in_order_and_an_error_in_one_arrives() -> None:
    def numbered(fault: int) -> Iterator[tuple[torch.Tensor, ...]]:
        for number in range(20):
            if number == fault:
                raise ValueError("the disk is gone")
            yield (torch.full((1000,), float(number)).pin_memory().to(GPU, non_blocking=True),)

    assert [int(batch.sum()) for (batch,) in ahead(numbered(-1), MIXED)] == [1000 * number for number in range(20)]
    with pytest.raises(ValueError, match="the disk is gone"):
        list(ahead(numbered(5), MIXED))
    first = ahead(numbered(-1), MIXED)
    next(first)
    first.close()  # type: ignore[attr-defined]  # a training that ends early leaves no thread behind


SITE = """
import sys, numpy as np, torch
from cdtl_core.config import ComputeConfig, ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import build_classifier
from cdtl_core.models.weights import take, weights_hash
from cdtl_core.training.device import open_hardware
from cdtl_core.training.train import fit
hardware = open_hardware("cuda:0", ComputeConfig(memory_share=0.4, deterministic=True))
torch.manual_seed(0)
model = build_classifier(ModelConfig(weights="random"), 2, 64)
pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 64, 64), np.uint8)
fold = Fold(pixels, np.arange(40), np.arange(40) % 2, np.arange(40))
print("ready", flush=True)
sys.stdin.readline()
steps = int(sys.argv[1])
fit(model, fold, TrainConfig(steps=steps, batch_size=32), epoch=0, rng=np.random.default_rng(0), device=hardware)
print(weights_hash(take(model, list(model.state_dict()))), flush=True)
"""


def test_two_sites_train_on_one_gpu_at_once_and_neither_changes_the_other() -> None:
    """Two processes with 0.4 of the memory each, and one by itself: the same bits."""
    command, root = [sys.executable, "-c", SITE, "60"], Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    sites = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)
    ]
    assert all(site.stdout and site.stdout.readline() == "ready\n" for site in sites)
    together = [site.communicate("go\n", timeout=120)[0] for site in (sites[2],)]
    for site in sites[:2]:
        assert site.stdin
        site.stdin.write("go\n")
        site.stdin.flush()
    together += [site.communicate(timeout=120)[0] for site in sites[:2]]
    assert all(site.returncode == 0 for site in sites)
    assert len(set(together)) == 1
    assert len(together[0]) == 65


def federation(device: str, precision: str, *, heads: bool) -> SimulationConfig:
    """Two sites that fine-tune ImageNet weights, in small steps: AdamW magnifies what rounding changes.

    With steps ten times as long a CPU with one thread and one with two end 0.009 of AUROC apart.
    """
    run: dict[str, Any] = {
        "name": "tiny", "image": {"size": 64}, "split": {"test": 0.6, "val": 0.15}, "federation": {"rounds": 3},
        "train": {"steps": 8, "batch_size": 16, "lr": 2e-5, "head_lr_factor": 50},
    }  # fmt: skip
    if heads:
        run["model"] = {"levels": [4, 5, 6, 7]}
        run["train"] |= {"freeze": 7, "views": 2, "steps": 30}
    else:
        run["train"]["augment"] = NO_CHANGE.model_dump()
    sites = [
        {"site": name, "modality": modality, "device": device, "compute": {"precision": precision},
         "data": {"phantom": {"patients": 160, "seed": seed}}}
        for seed, (name, modality) in enumerate([("alba", "ultrasound"), ("como", "mri")])
    ]  # fmt: skip
    return SimulationConfig.model_validate({"run": run, "methods": ["cdtl"], "sites": sites})


def figures(report: Report) -> dict[str, float]:
    return {
        f"{site.name}/{method}/{name}": value
        for site in report.sites
        for method, result in site.results.items()
        for name, value in {**result.metrics, "auroc": result.auroc.value}.items()
        if value is not None and name in {"auroc", "log_loss", "brier"}
    }


@pytest.mark.parametrize(
    ("heads", "precision", "most"),
    [(True, "bfloat16", 0.005), (False, "float32", 0.005), (False, "bfloat16", 0.2)],
    ids=["heads", "float32", "bfloat16"],
)
def test_a_federation_on_a_gpu_ends_with_the_cpus_metrics(
    heads: bool, precision: str, most: float, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """From images to a report and an exported model. bfloat16 is near: test scores that are close change places."""
    found = {
        device: figures(simulate(federation(device, used, heads=heads), tmp_path / device))
        for device, used in (("cuda:0", precision), ("cpu", "float32"))
    }
    assert found["cpu"].keys() == found["cuda:0"].keys()
    assert any(name.endswith("auroc") for name in found["cpu"])
    worst = max(abs(found["cuda:0"][name] - value) for name, value in found["cpu"].items())
    record_property("largest difference of a metric", worst)
    assert worst <= most, found
    models = sorted((tmp_path / "cuda:0").glob("sites/*/models/*/model.json"))
    assert models
    if precision == "float32":
        assert export_onnx(models[0].parent, tmp_path / "model.onnx").largest_difference < 1e-4


def test_a_compiled_backbone_trains_as_the_plain_one() -> None:
    config = TrainConfig(steps=4, batch_size=16, augment=STILL, lr=1e-4)
    losses, began = [], time.monotonic()
    for compile in (True, False):
        model = network("test_resnet")
        hardware = open_hardware("cuda:0", ComputeConfig(precision="float32", compile=compile))
        report = fit(model, images_of(), config, epoch=0, rng=np.random.default_rng(0), device=hardware)
        losses.append(report.loss)
        assert model.backbone._compiled_call_impl is None  # Grad-CAM and feature extraction need the plain one
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert time.monotonic() - began < 300
