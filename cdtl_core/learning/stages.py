"""A backbone in stages: groups of one module with weights and the norms and activations behind it, counted from 1."""

import torch
import torchvision
from timm.layers.norm import RmsNorm
from torch import nn

from cdtl_core.errors import ModelError

__all__ = ["NORMS", "FrozenNorm", "freeze_norms", "level_modules", "stages_of", "tensors_of_stages"]

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    RmsNorm,
    torchvision.ops.FrozenBatchNorm2d,
)


class FrozenNorm(torchvision.ops.FrozenBatchNorm2d):  # type: ignore[misc]
    """A batch norm whose affine and statistics are constants, and the activation that timm keeps inside its norms."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(norm.num_features, eps=norm.eps)
        self.act: nn.Module = getattr(norm, "act", nn.Identity())
        own = self.state_dict()
        for name, value in norm.state_dict().items():
            if name in own:
                own[name].copy_(value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B C H W to B C H W."""
        normalised: torch.Tensor = self.act(super().forward(images))
        return normalised


def freeze_norms(module: nn.Module) -> None:
    """Put a `FrozenNorm` in the place of every 2-d batch norm, and let no activation overwrite what it is given.

    Statistics of a batch would let a patient show through the others'; gradients by patient need inputs kept.
    """
    for name, child in list(module.named_modules()):
        if getattr(child, "inplace", False):
            child.inplace = False
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.weight is not None:
            parent, _, key = name.rpartition(".")
            setattr(module.get_submodule(parent), key, FrozenNorm(child))


def stages_of(backbone: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """A backbone's modules in order, in groups of one that has weights and the norms and activations behind it."""
    flat: list[tuple[str, nn.Module]] = []
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            flat += [(f"{name}.{key}", module) for key, module in child.named_children()]
        else:
            flat.append((name, child))
    stages: list[list[tuple[str, nn.Module]]] = []
    for name, module in flat:
        has_weights = any(True for _ in module.parameters()) and not isinstance(module, NORMS)
        if has_weights or not stages:
            stages.append([])
        stages[-1].append((name, module))
    return stages


def level_modules(backbone: nn.Module, levels: tuple[int, ...]) -> list[nn.Module]:
    """The module that gives each stage's output.

    Raises:
        ModelError: The backbone has fewer stages.
    """
    stages = stages_of(backbone)
    if max(levels) > len(stages):
        raise ModelError(f"model.levels names stage {max(levels)}, the backbone has {len(stages)}: use at most that.")
    return [stages[level - 1][-1][1] for level in levels]


def tensors_of_stages(backbone: nn.Module, first: int, *, beyond: int | None = None) -> set[str]:
    """Names, as in a classifier, of the tensors of the first stages, and of those after stage `beyond`.

    Raises:
        ModelError: The backbone has fewer stages.
    """
    stages = stages_of(backbone)
    if first > len(stages):
        raise ModelError(f"train.freeze = {first}, the backbone has {len(stages)} stages: use at most that many.")
    chosen = stages[:first] + (stages[beyond:] if beyond is not None else [])
    own = [name for name, _ in backbone.named_parameters(recurse=False)] if first else []
    inside = [f"{name}.{key}" for stage in chosen for name, module in stage for key in module.state_dict()]
    return {f"backbone.{name}" for name in own + inside}
