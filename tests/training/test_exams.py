"""Training and scoring exams with several images: against an exam at a time, in pieces, and one image as today."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from cdtl_core.config import AugmentConfig, ModelConfig, Pooling, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.transforms import normalise, to_unit
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import Classifier, build_classifier, build_feature_classifier
from cdtl_core.models.weights import take
from cdtl_core.training import scoring
from cdtl_core.training.inputs import Entry, drawn_inputs, plain_inputs
from cdtl_core.training.objective import Objective
from cdtl_core.training.saliency import grad_cam
from cdtl_core.training.scoring import embed, score, weigh
from cdtl_core.training.train import fit
from cdtl_core.training.views import Views
from tests.stub import STUB

CPU = torch.device("cpu")
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
HEADS = Entry(None, Views(2, 0, AugmentConfig()))
PLAIN = AugmentConfig(flip=0, rotate_deg=0, translate=0, scale=0, brightness=0, contrast=0, noise=0)


def exams(lengths: list[int], seed: int = 0) -> Fold:
    """One image of each exam is bright where its label is 1."""
    rng = np.random.default_rng(seed)
    labels, counts = np.arange(len(lengths)) % 2, np.array(lengths)
    pixels = rng.normal(90, 10, (sum(lengths), 1, 32, 32))
    shown = np.cumsum(counts) - counts + rng.integers(counts)
    pixels[shown] += 60 * labels[:, None, None, None]
    clipped = pixels.clip(0, 255).astype(np.uint8)
    return Fold(clipped, np.arange(sum(lengths)), labels.astype(np.int64), np.arange(len(lengths)), lengths=counts)


def network(pooling: Pooling, **more: object) -> Classifier:
    torch.manual_seed(0)
    config = {"backbone": STUB, "weights": "random", "pooling": pooling, **more}
    return build_classifier(ModelConfig.model_validate(config), 2, 32)


def random_ends(model: Classifier) -> Classifier:
    torch.manual_seed(3)
    for parameter in [*model.head.parameters(), *model.pooling.parameters()]:
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


LENGTHS = [3, 1, 7, 2, 90, 1, 4]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_scores_are_those_of_each_exam_alone_however_many_images_it_has(pooling: Pooling) -> None:
    model, fold = random_ends(network(pooling)), exams(LENGTHS)
    found, weights = score(model, fold, device=CPU), weigh(model, fold, device=CPU)
    images = normalise(to_unit(fold.pixels), model.mean, model.std)
    assert found.shape == (7, 2)
    with torch.no_grad():
        for place, (start, length) in enumerate(zip(fold.starts, fold.lengths, strict=True)):
            alone = Exams(images[start : start + length], (int(length),))
            assert found[place] == pytest.approx(model(alone).log_softmax(1)[0].numpy(), abs=1e-4)
            features = model.features(alone.images)
            assert weights[start : start + length] == pytest.approx(
                model.weights(Exams(features, (int(length),))).numpy(), abs=1e-4
            )
    assert np.bincount(fold.of_images(np.arange(7)), weights) == pytest.approx(np.ones(7))


def test_a_long_exam_passes_through_the_backbone_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fold = random_ends(network("attention")), exams([1, 200, 2])
    sizes, whole = [], type(model).features

    def features(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Classifier, "features", features)
    expected = score(model, fold, device=CPU)
    assert max(sizes) <= scoring.SCORE_BATCH
    assert sum(sizes) == 203  # each image once
    monkeypatch.setattr(scoring, "SCORE_BATCH", 7)
    assert score(model, fold, device=CPU) == pytest.approx(expected, abs=1e-4)


def test_features_are_those_of_the_images() -> None:
    model, fold = network("mean"), exams([2, 3])
    single = Fold(fold.pixels, fold.rows, np.zeros(5, np.int64), np.zeros(5, np.int64))
    assert (embed(model, fold, device=CPU) == embed(model, single, device=CPU)).all()


def test_a_step_takes_at_most_the_asked_number_of_images_of_an_exam() -> None:
    model, fold, config = network("mean"), exams([5, 2, 9]), TrainConfig(exam_images=3)
    rng, taken = np.random.default_rng(0), []

    def inputs(places: np.ndarray) -> torch.Tensor:
        taken.append(places)
        return plain_inputs(model, fold)(places)

    for _ in range(40):
        batch = drawn_inputs(inputs, fold, np.array([2, 0, 1]), config, rng)
        assert isinstance(batch, Exams)
        assert tuple(batch.lengths) == (3, 3, 2)
        assert len(batch.images) == 8
    places = np.stack(taken)
    parts = places[:, :3], places[:, 3:6], places[:, 6:]
    assert [sorted(set(part.ravel().tolist())) for part in parts] == [list(range(7, 16)), list(range(5)), [5, 6]]
    assert (np.diff(places[:, :3]) > 0).all()  # without replacement, in the exam's order
    state = rng.bit_generator.state
    drawn_inputs(inputs, fold, np.array([1]), config, rng)
    assert rng.bit_generator.state == state  # all images of an exam need no draw


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_step_follows_the_mean_loss_over_exams(pooling: Pooling) -> None:
    """Batch norms see all images of a batch at once, so the reference pools an exam at a time behind the backbone."""
    fold = exams([3, 1, 2, 4])
    config = TrainConfig(steps=6, batch_size=4, lr=1e-3, augment=PLAIN, class_weighted=False)
    losses = []

    class Reference(Objective):
        def loss(self, model: nn.Module, images: object, labels: torch.Tensor, weight: object) -> torch.Tensor:
            assert isinstance(model, Classifier)
            assert isinstance(images, Exams)
            parts = model.features(images.images).split(list(images.lengths))
            logits = torch.cat([model.classify(Exams(part, (len(part),))) for part in parts])
            loss = nn.functional.cross_entropy(logits, labels)
            losses.append(float(loss.detach()))
            return loss

    found = []
    for objective in (Objective(), Reference()):
        model = random_ends(network(pooling, dropout=0.0))
        report = fit(model, fold, config, epoch=0, rng=np.random.default_rng(0), device=CPU, objective=objective)
        found.append(report.loss)
    assert len(losses) == 6
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_exams_lesion_in_one_of_its_images_is_learned(pooling: Pooling) -> None:
    model = network(pooling)
    config = TrainConfig(steps=60, batch_size=8, lr=3e-3, exam_images=4)
    fit(model, exams([2, 4, 3, 3] * 8), config, epoch=0, rng=np.random.default_rng(0), device=CPU)
    fresh = exams([4, 3, 2, 3] * 6, seed=1)
    right = score(model, fresh, device=CPU).argmax(axis=1) == fresh.labels
    assert right.mean() > 0.85


@pytest.mark.parametrize("entry", [None, HEADS], ids=["images", "features"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_with_one_image_in_each_exam_training_and_scores_have_the_bits_of_images(
    pooling: Pooling, entry: Entry | None
) -> None:
    more: dict[str, object] = {"levels": [2, 4]} if entry else {}
    config = TrainConfig(steps=4, batch_size=6, freeze=4 if entry else 0, views=2 if entry else 0)
    found = []
    for name in ("mean", pooling):
        model, fold = network(name, **more), exams([1] * 12)
        report = fit(model, fold, config, epoch=0, rng=np.random.default_rng(2), device=CPU, entry=entry)
        found.append((report, take(model, network("mean", **more).state_dict()), score(model, fold, device=CPU)))
        assert not any(parameter.any() for parameter in model.pooling.parameters())  # attention had nothing to learn
    assert found[0][0] == found[1][0]
    assert all(value.equal(found[1][1][name]) for name, value in found[0][1].items())
    assert (found[0][2] == found[1][2]).all()


@pytest.mark.parametrize("pooling", ["mean", "max", "lse"])
def test_a_head_on_cached_features_of_exams_takes_the_steps_of_autograd(pooling: Pooling) -> None:
    rng = np.random.default_rng(0)
    config = ModelConfig.model_validate(
        {"backbone": STUB, "weights": "random", "levels": (2, 3), "dropout": 0.2, "pooling": pooling}
    )
    whole = build_classifier(config, 2, 32)
    lengths = rng.integers(1, 6, size=20)
    features = rng.normal(size=(lengths.sum(), 3, whole.head.in_features)).astype(np.float16)
    fold = Fold(features, np.arange(lengths.sum()), rng.integers(2, size=20), np.arange(20), lengths=lengths)  # type: ignore[arg-type]
    train, found = TrainConfig(steps=20, batch_size=8, views=2, freeze=3, lr=0.01, exam_images=3), []
    for general in (False, True):
        model = build_feature_classifier(whole, config)
        model.centre.mean.copy_(torch.from_numpy(features[:, 0].astype(np.float32)).mean(dim=0))
        report = fit(
            model, fold, train, epoch=1, rng=np.random.default_rng(5), device=CPU, entry=HEADS,
            **({"objective": Objective()} if general else {}),
        )  # fmt: skip
        found.append((report.loss, model.head.weight.detach().clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    assert found[0][1].abs().max() > 0.01


def test_attention_over_cached_features_is_trained() -> None:
    model = network("attention", levels=[2, 4])
    config = TrainConfig(steps=4, batch_size=6, freeze=4, views=2)
    fit(model, exams([3] * 12), config, epoch=0, rng=np.random.default_rng(0), device=CPU, entry=HEADS)
    assert all(parameter.any() for parameter in model.pooling.parameters())


def test_a_cached_exam_costs_what_its_images_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, entry = network("mean", levels=[2, 4]), replace(HEADS, cache=tmp_path)
    seen, whole = [], type(model).features

    def features(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Classifier, "features", features)
    fold = exams([3, 1, 2])
    first = score(model, fold, device=CPU, entry=entry)
    computed = [count for count in seen if count == 3]  # the plain view and two others of an image
    assert len(computed) == fold.num_images
    seen.clear()
    other = Fold(fold.pixels, fold.rows[::-1].copy(), np.array([0, 1]), np.array([0, 1]), lengths=np.array([2, 4]))
    score(model, other, device=CPU, entry=entry)
    assert len([count for count in seen if count == 3]) == 0  # other exams of the same images
    assert first.shape == (3, 2)


def test_each_image_of_an_exam_has_a_map() -> None:
    model, fold = random_ends(network("attention")), exams([2, 3])
    images = normalise(to_unit(fold.pixels), model.mean, model.std)
    heat = grad_cam(model, Exams(images, (2, 3)), 1)
    assert heat is not None
    assert heat.shape == (5, 32, 32)
