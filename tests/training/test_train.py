"""Training and scoring."""

import numpy as np
import pytest
import torch

from cdtl_core.config import ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.weights import take
from cdtl_core.training.scoring import score
from cdtl_core.training.train import fit, learning_rate, refresh_norms

CPU = torch.device("cpu")


def fold(count: int = 24, seed: int = 0) -> Fold:
    """Bright images are of class 1: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = (rng.normal(90, 10, (count, 1, 32, 32)) + 60 * labels[:, None, None, None]).clip(0, 255).astype(np.uint8)
    return Fold(pixels, np.arange(count), labels.astype(np.int64), np.arange(count))


def fresh() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelConfig(backbone="test_efficientnet", weights="random"), 2, 32)


def fitted(config: TrainConfig, seed: int = 0) -> Classifier:
    model = fresh()
    fit(model, fold(), config, epoch=0, rng=np.random.default_rng(seed), device=CPU)
    return model


def test_training_learns() -> None:
    model = fresh()
    before = fit(
        model, fold(), TrainConfig(steps=1, batch_size=8), epoch=0, rng=np.random.default_rng(0), device=CPU
    ).loss
    after = fit(
        model, fold(), TrainConfig(steps=40, batch_size=8, lr=3e-3), epoch=0, rng=np.random.default_rng(0), device=CPU
    )
    assert before == pytest.approx(np.log(2), abs=1e-5)  # the head starts at zero
    assert after.steps == 40
    assert after.loss < 0.5
    right = score(model, fold(seed=1), device=CPU).argmax(axis=1) == fold(seed=1).labels
    assert right.mean() > 0.9


def test_the_same_generator_gives_the_same_bits_and_the_global_one_is_untouched() -> None:
    config = TrainConfig(steps=3, batch_size=8)
    model = fresh()
    state = torch.get_rng_state()
    fit(model, fold(), config, epoch=0, rng=np.random.default_rng(0), device=CPU)
    assert torch.get_rng_state().equal(state)
    one, two, other = (take(fitted(config, seed), ["head.weight", "backbone.conv_stem.weight"]) for seed in (0, 0, 1))
    assert all(one[name].equal(two[name]) for name in one)
    assert not one["backbone.conv_stem.weight"].equal(other["backbone.conv_stem.weight"])


def test_no_steps_change_nothing_but_say_so() -> None:
    model, untouched = fresh(), fresh()
    result = fit(model, fold(), TrainConfig(steps=0), epoch=0, rng=np.random.default_rng(0), device=CPU)
    assert result.steps == 0
    assert np.isnan(result.loss)
    assert all(value.equal(untouched.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_learning_rate_decays_over_rounds() -> None:
    config = TrainConfig(lr=0.01, lr_decay=0.5)
    assert [learning_rate(config, epoch) for epoch in (0, 1, 2)] == pytest.approx([0.01, 0.01 / 1.5, 0.005])


def test_the_weight_average_lies_between_start_and_end() -> None:
    plain = TrainConfig(steps=6, batch_size=8, lr=1e-3)
    averaged = plain.model_copy(update={"ema": 0.9})
    name = ["backbone.conv_stem.weight"]
    start, end, mean = (take(model, name)[name[0]] for model in (fresh(), fitted(plain), fitted(averaged)))
    assert 0 < (mean - start).norm() < (end - start).norm()


def test_class_weights_count_a_rare_class_as_much_as_a_frequent_one() -> None:
    rare = Fold(fold().pixels, np.arange(24), (np.arange(24) < 3).astype(np.int64), np.arange(24))
    model = fresh()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([2.0, 0.0]))
    losses = [
        fit(
            model,
            rare,
            TrainConfig(steps=1, batch_size=24, lr=1e-9, class_weighted=weighted),
            epoch=0,
            rng=np.random.default_rng(0),
            device=CPU,
        ).loss
        for weighted in (False, True)
    ]
    per_class = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))]
    assert losses[0] == pytest.approx((21 * per_class[0] + 3 * per_class[1]) / 24, abs=1e-4)
    assert losses[1] == pytest.approx(sum(per_class) / 2, abs=1e-4)


def test_scores_are_log_probabilities_in_the_folds_order() -> None:
    model = fitted(TrainConfig(steps=3, batch_size=8))
    images = fold(150)
    scores = score(model, images, device=CPU)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-6)
    last = Fold(images.pixels, images.rows[[149]], images.labels[[149]], images.patients[[149]])
    np.testing.assert_allclose(score(model, last, device=CPU)[0], scores[149], atol=1e-5)


@pytest.mark.parametrize("count", [40, 65, 128])
def test_refreshed_norms_are_the_statistics_of_all_of_the_sites_images(count: int) -> None:
    """Also when images are sorted by label and their number leaves a batch of one."""
    model = build_classifier(ModelConfig(backbone="test_resnet", weights="random"), 2, 32)
    images = fold(count)
    images = Fold(images.pixels, np.argsort(images.labels, kind="stable"), np.sort(images.labels), images.patients)
    seen: list[torch.Tensor] = []
    norm = model.backbone.get_submodule("bn1")
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    refresh_norms(model, images, freeze=0, device=CPU)
    handle.remove()
    everything = torch.cat(seen)
    assert len(everything) == count
    torch.testing.assert_close(norm.running_mean, everything.mean(dim=(0, 2, 3)), atol=1e-4, rtol=2e-3)
    torch.testing.assert_close(norm.running_var, everything.var(dim=(0, 2, 3)), atol=1e-4, rtol=3e-2)
    assert norm.momentum == pytest.approx(0.1)


def test_refreshing_leaves_frozen_stages_and_weights_alone() -> None:
    model, untouched = fresh(), fresh()
    refresh_norms(model, fold(), freeze=2, device=CPU)
    moved = {name for name, value in model.state_dict().items() if not value.equal(untouched.state_dict()[name])}
    assert moved
    assert all("running" in name or "num_batches" in name for name in moved)
    assert not any(name.startswith(("backbone.bn1", "backbone.blocks.0")) for name in moved)
