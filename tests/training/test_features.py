"""Frozen features: stored values equal computed ones, and the parts of a classifier that make them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cdtl_core.config import AugmentConfig, ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.transforms import normalise, to_unit
from cdtl_core.errors import ModelError
from cdtl_core.models.model import Classifier, build_classifier, parts_of
from cdtl_core.training.features import feature_views
from cdtl_core.training.train import fit

CPU = torch.device("cpu")
LEVELS = ModelConfig(backbone="test_resnet", weights="random", levels=(2, 3), dropout=0.0)


def classifier(config: ModelConfig = LEVELS) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(config, 2, 32, frozen_norms=True)


@pytest.fixture
def fold() -> Fold:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 32, 32), np.uint8)
    return Fold(pixels, np.array([5, 0, 3]), np.array([0, 1, 0]), np.array([0, 1, 1]))


def views(model: Classifier, fold: Fold, cache: Path | None = None, count: int = 2) -> np.ndarray:
    return feature_views(model, fold, views=count, change=AugmentConfig(), seed=3, device=CPU, cache=cache)


def test_the_first_view_is_the_plain_image_and_what_is_kept_is_the_same(fold: Fold, tmp_path: Path) -> None:
    model = classifier()
    found = views(model, fold, tmp_path)
    assert found.shape == (3, 3, model.head.in_features)
    with torch.inference_mode():
        plain = model.eval().features(normalise(to_unit(fold.pixels[fold.rows]), model.mean, model.std))
    np.testing.assert_allclose(found[:, 0], plain.numpy(), atol=1e-3)
    assert not np.array_equal(found[:, 0], found[:, 1])
    assert np.array_equal(views(model, fold, tmp_path), found)
    assert np.array_equal(views(model, fold), found)
    assert len(list(tmp_path.glob("*/*.npy"))) == 1


def test_other_weights_images_or_views_are_other_features(fold: Fold, tmp_path: Path) -> None:
    model = classifier()
    views(model, fold, tmp_path)
    views(model, fold, tmp_path, count=1)
    views(model, Fold(fold.pixels, np.array([1, 3]), fold.labels[:2], fold.patients[:2]), tmp_path)
    next(model.backbone.parameters()).data.add_(1.0)
    views(model, fold, tmp_path)
    assert sorted(len(list(key.glob("*.npy"))) for key in tmp_path.iterdir()) == [1, 1, 2]


def test_levels_have_one_length_and_the_centre_takes_away_what_all_share() -> None:
    model = classifier()
    features = model.eval().features(torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(features.norm(dim=1), torch.full((4,), 2**0.5))
    model.centre.load_state_dict({"mean": features.mean(dim=0)})
    torch.testing.assert_close(model.centre(features).norm(dim=1), torch.full((4,), 4.0))
    assert parts_of(model, freeze=3, share_head=True).local == ("centre.mean",)
    with pytest.raises(ModelError, match=r"model\.levels"):
        classifier(LEVELS.model_copy(update={"levels": (99,)}))


def test_an_adapter_starts_as_the_identity_and_is_shared() -> None:
    model = classifier(LEVELS.model_copy(update={"adapter": 5}))
    features = torch.randn(4, model.head.in_features)
    assert model.adapter(features).equal(features)
    shared = parts_of(model, freeze=3, share_head=True).shared
    assert shared == ("adapter.down.weight", "adapter.up.weight", "head.weight", "head.bias")


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0", "mobilenetv3_small_050"])
def test_frozen_norms_are_what_evaluation_gives(backbone: str) -> None:
    config = ModelConfig(backbone=backbone, weights="random")
    plain, frozen = build_classifier(config, 2, 64), build_classifier(config, 2, 64, frozen_norms=True)
    state = {name: value for name, value in plain.state_dict().items() if value.is_floating_point()}
    for value in state.values():
        value.add_(torch.rand_like(value) * 0.1)
    frozen.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            frozen.train().features(images) if backbone == "resnet18" else frozen.eval().features(images),
            plain.eval().features(images),
            rtol=1e-3,
            atol=1e-4,
        )


@pytest.mark.parametrize(
    "changes",
    [{}, {"adapter": 3}, {"backbone": "test_vit", "levels": (2, 3), "lora": 2}],
    ids=["plain", "adapter", "lora"],
)
def test_training_moves_every_tensor_that_leaves(changes: dict[str, object]) -> None:
    config = ModelConfig.model_validate({**LEVELS.model_dump(), **changes})
    model = build_classifier(config, 2, 32)
    shared = parts_of(model, freeze=1, share_head=True).shared
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8)
    images = Fold(pixels, np.arange(8), np.arange(8) % 2, np.arange(8))
    train = TrainConfig(freeze=1, steps=4, batch_size=4)
    fit(model, images, train, epoch=0, rng=np.random.default_rng(0), device=CPU)
    assert [name for name in shared if model.state_dict()[name].equal(before[name])] == []
