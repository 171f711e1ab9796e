"""Cached frozen stages: a network entered behind them is the same network, and the cache is sound."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cdtl_core.config import AugmentConfig, ModelConfig, RunConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.pixels import content_id
from cdtl_core.data.transforms import normalise, to_unit
from cdtl_core.errors import CheckpointError, ModelError
from cdtl_core.models.model import Classifier, build_classifier, set_training
from cdtl_core.models.stages import check_division, run_stages
from cdtl_core.training.feature_cache import _check_room
from cdtl_core.training.inputs import Entry, changed_inputs, entered, entry_of, plain_inputs
from cdtl_core.training.scoring import score
from cdtl_core.training.train import fit, refresh_norms
from cdtl_core.training.views import Views, draw_views

CPU = torch.device("cpu")
VIEWS = Views(2, 0, AugmentConfig())
CONFIG = TrainConfig(steps=4, batch_size=6, freeze=3, views=2)


def fold(count: int = 20) -> Fold:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, 32, 32), np.uint8)
    return Fold(pixels, np.arange(count)[::-1], np.arange(count) % 2, np.arange(count))


def classifier(backbone: str = "test_efficientnet", levels: tuple[int, ...] = ()) -> Classifier:
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(backbone=backbone, weights="random", levels=levels), 2, 32)
    torch.nn.init.normal_(model.head.weight)
    return model


def trained(entry: Entry, config: TrainConfig = CONFIG) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    model, images = classifier(), fold()
    fit(model, images, config, epoch=0, rng=np.random.default_rng(0), device=CPU, entry=entry)
    refresh_norms(model, images, freeze=config.freeze, device=CPU, entry=entry)
    scores = score(model, images, device=CPU, entry=entry)
    return {name: value.clone() for name, value in model.state_dict().items()}, scores


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.npy"))


@pytest.mark.parametrize("config", [CONFIG, CONFIG.model_copy(update={"ema": 0.5})], ids=["plain", "average"])
def test_a_run_that_keeps_activations_is_the_run_that_computes_them_at_each_step(
    config: TrainConfig, tmp_path: Path
) -> None:
    """To the last bit: weights, norms and scores, when they are computed first and when they are found."""
    entry = Entry(3, VIEWS)
    expected, expected_scores = trained(entry, config)
    for _ in range(2):
        weights, scores = trained(replace(entry, cache=tmp_path), config)
        assert all(value.equal(expected[name]) for name, value in weights.items())
        assert np.array_equal(scores, expected_scores)
    start = classifier().state_dict()
    moved = {name.split(".")[1] for name, value in expected.items() if not value.equal(start[name])}
    assert "conv_stem" not in moved
    assert {"blocks", "conv_head"} <= moved


@pytest.mark.parametrize("levels", [(), (4, 6)])
def test_gradients_are_those_of_the_whole_network_on_the_same_views(levels: tuple[int, ...], tmp_path: Path) -> None:
    """Up to the rounding to float16 between the stages."""
    model, images, entry = classifier(levels=levels), fold(), Entry(3, VIEWS, tmp_path)
    rows = np.concatenate([[4], np.arange(19)])
    views = np.random.default_rng(5).integers(3, size=len(rows))
    pools = [draw_views(images.pixels[images.rows[row]], VIEWS) for row in rows]
    whole = normalise(torch.stack([pool[view] for pool, view in zip(pools, views, strict=True)]), model.mean, model.std)
    kept = changed_inputs(model, images, VIEWS.change, np.random.default_rng(5), entry)(rows)
    grads = []
    for inputs, where in ((whole, None), (kept, entry)):
        set_training(model, freeze=3)
        model.dropout.eval()
        model.zero_grad()
        cross_entropy(entered(model, where)(inputs), torch.from_numpy(images.labels[rows])).backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, value in grads[0].items():
        assert (grads[1][name] - value).norm() <= 0.03 * value.norm() + 1e-5, name


def test_the_plain_view_scores_as_the_image_itself() -> None:
    model = classifier()
    np.testing.assert_allclose(
        score(model, fold(), device=CPU, entry=Entry(3, VIEWS)), score(model, fold(), device=CPU), atol=5e-3
    )


def test_a_view_depends_on_its_image_alone() -> None:
    image, colour = fold().pixels[3], np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8)
    pool = draw_views(image, VIEWS)
    assert pool[0].equal(to_unit(image[None])[0])
    assert not pool[1].equal(pool[2])
    assert draw_views(image, replace(VIEWS, count=5))[:3].equal(pool)
    assert draw_views(np.repeat(image, 3, axis=0), VIEWS).equal(pool)
    assert draw_views(colour, VIEWS).shape == (3, 3, 32, 32)
    assert not draw_views(image, replace(VIEWS, seed=1))[1].equal(pool[1])
    assert content_id(np.repeat(image, 3, axis=0)) == content_id(image.copy())
    assert fold().image_ids[-4] == content_id(image)  # the rows of this fold stand in reverse


def test_each_image_is_computed_once_whatever_fold_or_cohort_it_is_in(tmp_path: Path) -> None:
    model, images, entry = classifier(), fold(), Entry(3, VIEWS, tmp_path)
    some = Fold(images.pixels, np.arange(8), images.labels[:8], images.patients[:8])
    first = plain_inputs(model, some, entry)(np.arange(8))
    plain_inputs(model, images, entry)
    kept = [name for path in files(tmp_path) for name in np.load(path)["image"].tolist()]
    assert len(kept) == len(set(kept)) == 20
    pixels = np.repeat(np.concatenate([images.pixels[8:], images.pixels[:8]]), 3, axis=1)
    pooled = Fold(pixels, np.arange(20), images.labels, images.patients)
    assert plain_inputs(model, pooled, entry)(np.arange(12, 20)).equal(first)
    assert len(files(tmp_path)) == 2


def test_other_frozen_weights_or_views_are_kept_apart_and_trained_ones_are_not(tmp_path: Path) -> None:
    model, entry = classifier(), Entry(3, VIEWS, tmp_path)
    plain_inputs(model, fold(), entry)
    with torch.no_grad():
        model.backbone.conv_head.weight.add_(1.0)
    plain_inputs(model, fold(), entry)
    assert len(list(tmp_path.iterdir())) == 1
    plain_inputs(model, fold(), Entry(2, VIEWS, tmp_path))
    plain_inputs(model, fold(), Entry(3, replace(VIEWS, seed=1), tmp_path))
    with torch.no_grad():
        model.backbone.bn1.running_mean.add_(1.0)
    plain_inputs(model, fold(), entry)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    model, images, entry = classifier(), fold(), Entry(3, VIEWS, tmp_path / "one")
    expected = plain_inputs(model, images, entry)(np.arange(20))
    (path,) = files(tmp_path / "one")
    damaged = tmp_path / "two" / path.relative_to(tmp_path / "one")
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(path.read_bytes()[:-100])
    assert plain_inputs(model, images, replace(entry, cache=tmp_path / "two"))(np.arange(20)).equal(expected)
    assert damaged.read_bytes() == path.read_bytes()


def test_a_cohort_that_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"raise train\.freeze"):
        _check_room(tmp_path, 10**15, 1000)
    _check_room(tmp_path, 1, 1000)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18", "googlenet", "test_convnext", "convnext_tiny"])
def test_backbones_of_stages_that_follow_one_another_divide_anywhere(backbone: str) -> None:
    model = build_classifier(ModelConfig(backbone=backbone, weights="random"), 2, 64)
    for stages in (1, 4, 6):
        check_division(model.backbone, stages, 64)


def test_a_backbone_can_be_divided_behind_its_last_stage() -> None:
    model = classifier()
    check_division(model.backbone, 7, 32)
    assert run_stages(model.backbone, 7, torch.zeros(2, 3, 32, 32)).shape == (2, model.head.in_features)
    with pytest.raises(ModelError, match=r"7 stages"):
        check_division(model.backbone, 8, 32)


class _Bridge(torch.nn.Module):
    """A last stage that looks at the images too, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.up(torch.cat([self.down(images), images], dim=1)).mean(dim=(2, 3))


def test_a_backbone_that_cannot_be_entered_is_refused_and_stays_whole() -> None:
    module = _Bridge()
    names = [name for name, _ in module.named_modules()]
    with pytest.raises(ModelError, match=r"from the output of its stage 1"):
        check_division(module, 1, 96)
    assert [name for name, _ in module.named_modules()] == names


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.freeze is 0"):
        TrainConfig(views=2)
    with pytest.raises(ValueError, match=r"model\.levels names stages before and behind"):
        RunConfig.model_validate({"train": {"views": 2, "freeze": 3}, "model": {"levels": [3, 5]}})
    pooled = RunConfig.model_validate({"train": {"views": 2, "freeze": 5}, "model": {"levels": [3, 5]}})
    assert entry_of(pooled, None) == Entry(None, VIEWS)
    run = RunConfig.model_validate({"train": {"views": 2, "freeze": 3}, "model": {"levels": [4, 5]}})
    assert entry_of(run, None) == Entry(3, VIEWS)
    assert entry_of(RunConfig.model_validate({"train": {"freeze": 3}}), None) is None
    assert entry_of(RunConfig.model_validate({**run.model_dump(), "dp": {"enabled": True}}), None) is None


def test_features_of_frozen_levels_enter_in_the_place_of_images(tmp_path: Path) -> None:
    """Training, scores and norms are those of a network that computes them; only the head and the centre move."""
    config = CONFIG.model_copy(update={"freeze": 4})
    found = []
    for entry in (Entry(None, VIEWS), Entry(None, VIEWS, tmp_path)):
        model, images = classifier(levels=(2, 4)), fold()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fit(model, images, config, epoch=0, rng=np.random.default_rng(0), device=CPU, entry=entry)
        refresh_norms(model, images, freeze=4, device=CPU, entry=entry)
        moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
        assert moved == {"head.weight", "head.bias"}
        found.append(score(model, images, device=CPU, entry=entry))
    assert np.array_equal(*found)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0], score(model, images, device=CPU), rtol=1e-3, atol=5e-3)  # float16
