"""The classifier and its split: what may be shared, what stays at the site, what is frozen. By type, never by name."""

from dataclasses import dataclass

import torch
import torchvision
from timm.layers.norm import RmsNorm
from torch import nn

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.learning.backbones import build_backbone, load_initial_weights
from cdtl_core.learning.weights import Weights, check_finite

__all__ = ["Classifier", "Parts", "build_classifier", "build_theta0", "parts_of", "set_training"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    RmsNorm,
    torchvision.ops.FrozenBatchNorm2d,
)


class Classifier(nn.Module):
    """A backbone and a linear head with dropout before it: B 3 H W to logits B K.

    The head starts at zero: the same at every site without being sent, and no first step distorts the features.

    Source: eq. (8), Inbaraj et al. 2025 (dropout on the activations before the head).
    """

    def __init__(self, config: ModelConfig, num_classes: int, image_size: int) -> None:
        super().__init__()
        found = build_backbone(config.backbone, image_size)
        self.backbone = found.module
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(found.num_features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.mean, self.std = found.mean, found.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits B K of normalised images B 3 H W."""
        logits: torch.Tensor = self.head(self.dropout(self.backbone(images)))
        return logits


@dataclass(frozen=True)
class Parts:
    """Names of a classifier's tensors by where they may go.

    Attributes:
        shared: Trained, leave the site as a delta.
        local: Trained, kept on the site's disk: affine and running statistics of norms, and a head that is not shared.
    """

    shared: tuple[str, ...]
    local: tuple[str, ...]


def build_classifier(config: ModelConfig, num_classes: int, image_size: int) -> Classifier:
    """A classifier whose backbone has arbitrary weights; `theta0` fills it.

    Raises:
        ModelError: The backbone is unknown.
    """
    with torch.random.fork_rng(devices=[]):
        return Classifier(config, num_classes, image_size).to(memory_format=torch.channels_last)


def build_theta0(config: ModelConfig, seed: int, image_size: int) -> Weights:
    """The weights that every site of a federation starts from: all floating-point tensors of the backbone.

    Raises:
        ModelError: The backbone is unknown, or its weights can't be had or are not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(config.backbone, image_size)
        load_initial_weights(backbone, config.backbone, config.weights, image_size)
    state = backbone.module.state_dict()
    theta0 = {f"backbone.{name}": value.detach().clone() for name, value in state.items() if value.is_floating_point()}
    check_finite(theta0, "theta0")
    return theta0


def parts_of(model: Classifier, *, freeze: int, share_head: bool) -> Parts:
    """Divide a classifier's tensors; those of the first `freeze` stages are in neither part: they stay theta0's.

    Raises:
        ModelError: The backbone has fewer stages than `freeze`.
    """
    frozen = _tensors_of_stages(model, freeze)
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.backbone.named_modules(prefix="backbone")
        if isinstance(module, _NORMS)
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
    heads = [f"head.{name}" for name, _ in model.head.named_parameters()]
    weights = [name for name, _ in model.named_parameters(prefix="") if name.startswith("backbone.")]
    shared = [name for name in weights if name not in norms | frozen]
    local = [name for name in model.state_dict() if name in norms - frozen]
    return Parts(tuple(shared + heads * share_head), tuple(local + heads * (not share_head)))


def set_training(model: Classifier, *, freeze: int) -> None:
    """Switch to training: the first `freeze` stages get no gradient and their norms keep theta0's statistics."""
    frozen = _tensors_of_stages(model, freeze)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.train()
    for stage in _stages(model.backbone)[:freeze]:
        for _, module in stage:
            module.eval()


def _stages(backbone: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """A backbone's modules in order, in groups of one that has weights and the norms and activations behind it."""
    flat: list[tuple[str, nn.Module]] = []
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            flat += [(f"{name}.{key}", module) for key, module in child.named_children()]
        else:
            flat.append((name, child))
    stages: list[list[tuple[str, nn.Module]]] = []
    for name, module in flat:
        has_weights = any(True for _ in module.parameters()) and not isinstance(module, _NORMS)
        if has_weights or not stages:
            stages.append([])
        stages[-1].append((name, module))
    return stages


def _tensors_of_stages(model: Classifier, freeze: int) -> set[str]:
    stages = _stages(model.backbone)
    if freeze > len(stages):
        raise ModelError(f"train.freeze = {freeze}, the backbone has {len(stages)} stages: use at most that many.")
    own = [name for name, _ in model.backbone.named_parameters(recurse=False)] if freeze else []
    inside = [f"{name}.{key}" for stage in stages[:freeze] for name, module in stage for key in module.state_dict()]
    return {f"backbone.{name}" for name in own + inside}
