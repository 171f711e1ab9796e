"""Backbones by name and their initial weights."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.models import backbones
from cdtl_core.models.backbones import build_backbone
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import build_classifier, shared_classifier
from cdtl_core.models.packaged import _file_of
from cdtl_core.models.weights import load_into, weights_hash


def test_the_packages_weights_load_exactly_and_give_the_known_logits() -> None:
    source = torch.load(_file_of("efficientnet_lite0"), map_location="cpu", weights_only=True)
    initial_weights = build_initial_weights(ModelConfig(), seed=0, image_size=64)
    floats = [(name, value) for name, value in source.items() if value.is_floating_point()]
    assert len(source) == 296
    assert len(initial_weights) == len(floats) - 2  # all but the classifier
    for (name, value), (own, loaded) in zip(floats, initial_weights.items(), strict=False):
        assert name.rpartition(".")[2] == own.rpartition(".")[2]
        assert value.equal(loaded)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    backbone = {name.removeprefix("backbone."): value for name, value in initial_weights.items()}
    whole.load_state_dict(
        {**backbone, "classifier.weight": source["_fc.weight"], "classifier.bias": source["_fc.bias"]}, strict=False
    )
    with torch.inference_mode():
        logits = whole(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))[0]
    best = logits.topk(3)
    assert best.indices.tolist() == [701, 437, 540]
    torch.testing.assert_close(best.values, torch.tensor([3.4702, 3.4477, 3.2483]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("test_resnet", 96),
        ("mobilenetv3_small_050", 1024),  # timm's num_features says 288
        ("vgg11", 4096),  # timm's num_features says 512
        ("vit_tiny_patch16_224", 192),  # takes another size than it was trained with
        ("googlenet", 1024),  # torchvision only; has auxiliary heads in training
        ("shufflenet_v2_x0_5", 1024),  # torchvision only
    ],
)
def test_timm_and_torchvision_classifiers_by_name(name: str, features: int) -> None:
    model = build_classifier(ModelConfig(backbone=name, weights="random"), 3, 64)
    assert model.head.in_features == features
    assert model.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_what_cannot_be_a_backbone_is_refused() -> None:
    with pytest.raises(ModelError, match="no linear classifier"):
        build_backbone("squeezenet1_0", 64)
    with pytest.raises(ModelError, match="no feature vector for images of 32 px"):
        build_backbone("inception_v3", 32)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = ModelConfig(backbone="test_resnet", weights="random")
    initial_weights = build_initial_weights(config, 5, 64)
    next(iter(initial_weights.values()))[0] = float("nan")
    save_file(initial_weights, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="initial_weights holds values that are not finite"):
        build_initial_weights(config.model_copy(update={"weights": str(tmp_path / "bad.safetensors")}), 0, 64)


def test_a_librarys_own_file_loads_also_where_a_norm_is_called_head(tmp_path: Path) -> None:
    module = build_backbone("test_convnext", 64).module
    assert "head.norm.weight" in module.state_dict()
    save_file({**module.state_dict(), "head.fc.weight": torch.zeros(2, 64)}, tmp_path / "own.safetensors")
    config = ModelConfig(backbone="test_convnext", weights=str(tmp_path / "own.safetensors"))
    assert build_initial_weights(config, 0, 64)["backbone.head.norm.weight"].equal(
        module.state_dict()["head.norm.weight"]
    )


def test_random_weights_come_from_the_seed() -> None:
    config = ModelConfig(backbone="test_resnet", weights="random")
    one, two, again = (build_initial_weights(config, seed, 64) for seed in (1, 2, 1))  # only the last ones are kept
    assert all(value is not again[name] for name, value in one.items())
    assert weights_hash(one) == weights_hash(again) != weights_hash(two)


def test_a_network_of_a_library_built_for_initial_weights_becomes_one_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only with weights that a library draws or brings: of a file they could be any, as zeros, and show no fault."""
    built = []
    monkeypatch.setattr(backbones, "build_backbone", lambda *form: built.append(form) or build_backbone(*form))
    config = ModelConfig(backbone="test_resnet", weights="random")
    initial_weights = build_initial_weights(config, 11, 64)
    before = weights_hash(initial_weights)
    one, two = (shared_classifier(config, classes, 64) for classes in (21, 22))
    assert built == [("test_resnet", 64)]  # the second one
    assert not {value.data_ptr() for value in one.state_dict().values()} & {
        value.data_ptr() for part in (two.state_dict(), initial_weights) for value in part.values()
    }
    load_into(one, {name: torch.zeros_like(value) for name, value in initial_weights.items()})
    assert weights_hash(build_initial_weights(config, 11, 64)) == before
    build_initial_weights(config, 12, 64)
    shared_classifier(config, 2, 32)  # of another size
    save_file(initial_weights, tmp_path / "w.safetensors")
    changes: list[dict[str, object]] = [{"weights": str(tmp_path / "w.safetensors")}, {"adapter": 4}]
    for seed, change in enumerate(changes):
        other = config.model_copy(update=change)
        build_initial_weights(config, 13 + seed, 64)
        shared_classifier(config, 23 + seed, 64)
        build_initial_weights(other, 0, 64)
        shared_classifier(other, 2, 64)
    assert built[1:] == [("test_resnet", 32), *[("test_resnet", 64)] * 2]
    lora = ModelConfig(backbone="test_vit", weights="random", lora=2)
    build_initial_weights(lora, 0, 64)
    shared_classifier(lora, 2, 64)
    assert built[-1] == ("test_vit", 64)
    own = ModelConfig(backbone="plain_cnn", weights="random")  # another function may have this name by now
    build_initial_weights(own, 0, 64)
    shared_classifier(own, 2, 64)
    assert built[-1] == ("plain_cnn", 64)


def test_a_seeded_network_has_the_same_weights_whatever_was_built_before() -> None:
    config, found = ModelConfig(backbone="test_resnet", weights="random"), set()
    for before in (None, 31):
        if before is not None:
            build_initial_weights(config, before, 64)
        torch.manual_seed(3)
        found.add(weights_hash(build_classifier(config, 2, 64).state_dict()))
    assert len(found) == 1


def test_weights_from_a_file(tmp_path: Path) -> None:
    config = ModelConfig(backbone="test_resnet", weights="random")
    initial_weights = build_initial_weights(config, 5, 64)
    path = tmp_path / "initial_weights.safetensors"
    save_file({**initial_weights, "head.weight": torch.zeros(2, 96)}, path)
    again = build_initial_weights(config.model_copy(update={"weights": str(path)}), 0, 64)
    assert weights_hash(again) == weights_hash(initial_weights)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("junk", "cannot be read"), ({}, "is missing"), ("shape", "another shape")],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "weights.safetensors"
    if content == "junk":
        path.write_bytes(b"not a model at all")
    elif content == "shape":
        initial_weights = build_initial_weights(ModelConfig(backbone="test_resnet", weights="random"), 0, 64)
        save_file({name: value[:1].clone() for name, value in initial_weights.items()}, path)
    elif content is not None:
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=says):
        build_initial_weights(ModelConfig(backbone="test_resnet", weights=str(path)), 0, 64)


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ModelError, match="'resnet_of_ours' is unknown"):
        build_backbone("resnet_of_ours", 64)
