"""Stages of a backbone, counted from 1: a module with weights plus the norms and activations after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cdtl_core.errors import ModelError
from cdtl_core.models.libraries import timm, torchvision

__all__ = ["NORMS", "FrozenNorm", "check_division", "freeze_norms", "level_modules", "run_stages", "skip_stages"]
__all__ += ["stages_of", "tensors_of_stages"]

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    timm.layers.norm.RmsNorm,
    torchvision.ops.FrozenBatchNorm2d,
)


class FrozenNorm(torchvision.ops.FrozenBatchNorm2d):  # type: ignore[misc]
    """A batch norm with constant affine parameters and statistics, and the activation that timm puts into its norms."""

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
    """Replace every 2-d batch norm by a `FrozenNorm`, and make activations not overwrite their inputs.

    Batch statistics would make a patient visible through the others, and gradients by patient need the inputs.
    """
    for name, child in list(module.named_modules()):
        if getattr(child, "inplace", False):
            child.inplace = False
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.weight is not None:
            parent, _, key = name.rpartition(".")
            setattr(module.get_submodule(parent), key, FrozenNorm(child))


def stages_of(backbone: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """Return a backbone's modules in order, grouped into stages."""
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
    """Return the module that gives each stage's output.

    Raises:
        ModelError: The backbone has fewer stages.
    """
    stages = stages_of(backbone)
    if max(levels) > len(stages):
        raise ModelError(
            f"model.levels names stage {max(levels)}, the backbone has {len(stages)}: use at most this number."
        )
    return [stages[level - 1][-1][1] for level in levels]


def tensors_of_stages(backbone: nn.Module, first: int, *, beyond: int | None = None) -> set[str]:
    """Return the classifier's tensor names of the first stages, and those of the stages after `beyond`.

    Args:
        backbone: The backbone.
        first: Number of early stages.
        beyond: Number of the stage after which the second group begins.

    Raises:
        ModelError: The backbone has fewer stages.
    """
    stages = stages_of(backbone)
    if first > len(stages):
        raise ModelError(f"train.freeze = {first}, the backbone has {len(stages)} stages: use at most this number.")
    chosen = stages[:first] + (stages[beyond:] if beyond is not None else [])
    own = [name for name, _ in backbone.named_parameters(recurse=False)] if first else []
    inside = [f"{name}.{key}" for stage in chosen for name, module in stage for key in module.state_dict()]
    return {f"backbone.{name}" for name in own + inside}


class _Reached(Exception):  # noqa: N818
    """Carries the awaited output; stops the forward pass."""

    def __init__(self, output: torch.Tensor) -> None:
        self.output = output


def run_stages(backbone: nn.Module, first: int, images: torch.Tensor) -> torch.Tensor:
    """Return the output of the first stages for images B 3 H W, without gradient; the other stages are not run.

    Args:
        backbone: The backbone.
        first: Number of stages, 1 or more.
        images: B 3 H W.

    Raises:
        ModelError: The backbone has fewer stages, or does not run the last of them.
    """

    def stop(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        raise _Reached(output)

    tensors_of_stages(backbone, first)
    hook = stages_of(backbone)[first - 1][-1][1].register_forward_hook(stop)
    try:
        with torch.no_grad():
            backbone(images)
    except _Reached as reached:
        return reached.output
    finally:
        hook.remove()
    raise ModelError(f"the backbone never runs its stage {first}: set another train.freeze, or train.views = 0.")


@contextmanager
def skip_stages(backbone: nn.Module, first: int) -> Iterator[None]:
    """Inside the block the backbone takes the output of `run_stages` and runs only the rest; tensor names stay.

    timm's vision transformers add positions after their first stage and pool tokens after their last one in methods of
    their own: what enters has been through them.
    """
    modules = [pair for stage in stages_of(backbone)[:first] for pair in stage] if first else []
    parents = [(backbone.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name, _ in modules]
    done = _methods_of_stages(backbone, first)
    try:
        for parent, key in parents:
            parent._modules[key] = nn.Identity()
        for method in done:
            setattr(backbone, method, lambda tokens, *_: tokens)
        yield
    finally:
        for method in done:
            delattr(backbone, method)
        for (parent, key), (_, module) in zip(parents, modules, strict=True):
            parent._modules[key] = module


def _methods_of_stages(backbone: nn.Module, first: int) -> list[str]:
    """Return the methods of a vision transformer that belong to its first stages."""
    if not first or not isinstance(backbone, timm.models.VisionTransformer):
        return []
    return ["_pos_embed", "pool"] if first == len(stages_of(backbone)) else ["_pos_embed"]


def check_division(backbone: nn.Module, first: int, image_size: int) -> None:
    """Check that the first stages followed by the rest equal the backbone.

    Args:
        backbone: The backbone.
        first: Number of early stages.
        image_size: Side of the images in pixels.

    Raises:
        ModelError: They do not: images enter twice, or a later stage uses more than the output of the one before it.
    """
    backbone.eval()
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        between, whole = run_stages(backbone, first, images), backbone(images)
        try:
            with skip_stages(backbone, first):
                same = torch.allclose(backbone(between), whole, rtol=1e-4, atol=1e-5)
        except Exception:  # any layer may raise, each in its own way
            same = False
    if not same:
        raise ModelError(
            f"the backbone cannot be run from the output of its stage {first}: change train.freeze, set train.views "
            "to 0, or choose a backbone whose stages follow one another."
        )
