"""Feature extractors by name, and their initial weights."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cdtl_core.errors import BY_SCRIPT, ConfigError, ModelError, did_you_mean
from cdtl_core.models.libraries import timm, torchvision
from cdtl_core.models.lite0_levels import Lite0Levels
from cdtl_core.models.own_nets import OWN, OwnNet
from cdtl_core.models.packaged import PACKAGES, is_packaged, load_packaged
from cdtl_core.system.foreign import visible
from cdtl_core.system.plugins import adopt, adopt_all, naming_plugin, plugins

__all__ = ["Backbone", "any_backbone", "build_backbone", "give_back", "is_pretrained_here", "is_shipped_backbone"]
__all__ += ["load_initial_weights", "own_backbones", "register_backbone"]

_LITE0 = "efficientnet_lite0"
_SHIPPED = frozenset({_LITE0, *OWN})
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A feature extractor: B 3 H W to B D.

    Attributes:
        module: The network without its classifier.
        num_features: D.
        mean: Per-channel constants that the initial weights was trained with, in [0, 1].
        std: Likewise.
    """

    module: nn.Module
    num_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def register_backbone(
    name: str,
    build: Callable[[], nn.Module],
    *,
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
    std: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> None:
    """Make a network known to this process as ``model.backbone``.

    For the command line and for runs between hospitals, put it into a package (docs/guides/package.md).

    Args:
        name: Letters, digits, ``_``, ``.`` and ``-``, at most 96 characters.
        build: Gives the network without its classifier, images B 3 H W to features B D, with random weights. Its
            normalisation layers are torch's own, since these stay at each site; all other weights are shared.
        mean: Per colour channel, taken off pixels in [0, 1].
        std: Per colour channel, which the rest is divided by.

    Raises:
        ConfigError: The name is malformed, a backbone of cdtl, timm or torchvision has it, or `build` is no function.

    Examples:
        >>> from torch import nn
        >>> from cdtl_core import register_backbone
        >>> def small_net() -> nn.Module:
        ...     return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> register_backbone("small_net", small_net)
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}", name):
        raise ConfigError(f"backbone name {name!r}: use letters, digits, _, . and -, at most 96 characters.")
    if name in OWN or _of_a_library(name):
        raise ConfigError(f"backbone '{name}' exists already: choose another name.")
    if not callable(build):
        raise ConfigError(f"backbone '{name}' is {build!r}: give the function or class that builds it.")
    OWN[name] = OwnNet(build, mean, std, (build.__doc__ or "").strip().partition("\n")[0])


def _of_a_library(name: str) -> bool:
    return timm.is_model(_timm_name(name)) or name in torchvision.models.list_models(torchvision.models)


def is_shipped_backbone(name: str) -> bool:
    """Whether every installation of cdtl has a backbone: it is cdtl's own, or of timm or torchvision."""
    return name in _SHIPPED or _of_a_library(name)


def is_pretrained_here(name: str) -> bool:
    """Whether a backbone's pretrained weights are installed here; others are downloaded."""
    return name == "lite0_levels" or is_packaged(name)


def own_backbones() -> dict[str, OwnNet]:
    """Return cdtl's own networks and those of plugins and of this process, by name, but for broken plugins."""
    adopt_all("backbones", _register)
    return dict(OWN)


def _register(name: str, build: object) -> None:
    """Register a plugin's network: a function without arguments. It, or its network, may carry `mean` and `std`."""
    if not callable(build):
        raise ConfigError("it is not a function that returns a torch.nn.Module.")
    with naming_plugin("backbones", name):
        constants = _constants(build)
    register_backbone(name, build, **constants)
    OWN[name] = replace(OWN[name], of_plugin=True)


def _constants(carrier: object) -> dict[str, Any]:
    """Return the `mean` and `std` that a function or a network carries; a tensor is a part of the network itself."""
    found = {key: getattr(carrier, key, None) for key in ("mean", "std")}
    constants = {key: tuple(value) for key, value in found.items() if isinstance(value, tuple | list)}
    for key, value in constants.items():
        if len(value) != 3 or not all(isinstance(one, int | float) for one in value):
            raise ValueError(f"{key} is {value!r}, not three numbers")
    return constants


def build_backbone(name: str, image_size: int) -> Backbone:
    """Build a backbone with arbitrary weights.

    Args:
        name: `efficientnet_lite0`, one of our own networks, or any classifier of timm or torchvision.
        image_size: Side of the images in pixels.

    Raises:
        ModelError: No library has a classifier of this name, or it cannot take images of this size.
    """
    adopt("backbones", name, _register)
    if name in OWN:
        with naming_plugin("backbones", name):
            module: Any = OWN[name].build()
            constants: dict[str, Any] = {"mean": OWN[name].mean, "std": OWN[name].std}
            if OWN[name].of_plugin:
                constants |= _constants(module) | _constants(OWN[name].build)
        mean, std = constants["mean"], constants["std"]
    elif timm.is_model(_timm_name(name)):
        module = _timm_backbone(_timm_name(name), image_size)
        mean, std = tuple(module.pretrained_cfg["mean"]), tuple(module.pretrained_cfg["std"])
    elif name in torchvision.models.list_models(torchvision.models):
        module, mean, std = _torchvision_backbone(name), _IMAGENET_MEAN, _IMAGENET_STD
    else:
        known = dict.fromkeys([_LITE0, *OWN, *(one.name for one in plugins("backbones"))])
        libraries = (*timm.list_models(), *torchvision.models.list_models(torchvision.models))
        raise ModelError(
            f"the backbone '{name}' is unknown{did_you_mean(name, (*known, *libraries))} {', '.join(known)}, or a "
            f"classifier of timm or torchvision.{BY_SCRIPT}"
        )
    return Backbone(module, _num_features(module, name, image_size), mean, std)


def any_backbone(name: str, image_size: int) -> Backbone:
    """Return a backbone with arbitrary weights: one that was given back, or a new one as of `build_backbone`."""
    return _spare.pop((name, image_size), None) or build_backbone(name, image_size)


def give_back(backbone: Backbone, name: str, image_size: int) -> None:
    """Keep a backbone that nothing uses any more for `any_backbone`: to draw weights takes longer than a round.

    Only networks of a library are kept, one at a time.

    Args:
        backbone: As built, with random or with pretrained weights.
        name: Its name.
        image_size: Side of the images in pixels.
    """
    _spare.clear()
    if name not in OWN:
        _spare[name, image_size] = backbone


_spare: dict[tuple[str, int], Backbone] = {}
"""At most one backbone that was given back."""


def load_initial_weights(backbone: Backbone, name: str, weights: str, image_size: int) -> None:
    """Load the initial weights of a backbone.

    Args:
        backbone: Filled in place.
        name: Name of the backbone.
        weights: ``imagenet`` (a backbone of `PACKAGES`: from its package; any other: from the library, which downloads
            them), ``random`` (as built), or a .safetensors file.
        image_size: Side of the images in pixels.

    Raises:
        ModelError: The file is missing or does not fit, or pretrained weights are not available here.
    """
    if weights == "imagenet":
        _load_imagenet(backbone.module, name, image_size)
    elif weights != "random":
        _load_safetensors(backbone.module, Path(weights))


def _timm_name(name: str) -> str:
    return "tf_efficientnet_lite0" if name == _LITE0 else name


def _load_imagenet(module: nn.Module, name: str, image_size: int) -> None:
    if name in PACKAGES:
        load_packaged(module, name)
        return
    if isinstance(module, Lite0Levels):
        whole = timm.create_model("tf_efficientnet_lite0")
        load_packaged(whole, _LITE0)
        own = module.trunk.state_dict()
        module.trunk.load_state_dict({key: value for key, value in whole.state_dict().items() if key in own})
        return
    if name in OWN:
        raise ModelError(f"there are no ImageNet weights for '{name}': set model.weights to 'random' or to a file.")
    try:
        if timm.is_model(name):
            state = _timm_backbone(name, image_size, pretrained=True).state_dict()
        else:
            whole = torchvision.models.get_model(name, weights="DEFAULT").state_dict()
            state = {key: value for key, value in whole.items() if key in module.state_dict()}
        module.load_state_dict(state)
    except Exception as error:  # both libraries raise many kinds of errors, from the network and the hub
        raise ModelError(
            f"no ImageNet weights for '{name}' could be downloaded ({type(error).__name__}): connect the "
            "coordinator to the internet, set model.weights to a .safetensors file, or to 'random'."
        ) from None


def _load_safetensors(module: nn.Module, path: Path) -> None:
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights {path} cannot be read ({error}): give a .safetensors file.") from None
    own_format = any(name.startswith("backbone.") for name in found)
    state = {name.removeprefix("backbone."): value for name, value in found.items()} if own_format else found
    own = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    missing = [name for name in own if name not in state]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or wrong:
        name, fault = (missing[0], "is missing") if missing else (wrong[0], "has another shape")
        raise ModelError(
            f"the weights {path} do not fit the backbone ('{name}' {fault}): give weights of this backbone."
        )
    module.load_state_dict({name: state[name] for name in own}, strict=False)


def _timm_backbone(name: str, image_size: int, *, pretrained: bool = False) -> nn.Module:
    fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size") if timm.is_model_pretrained(name) else False
    options: dict[str, Any] = {"img_size": image_size} if fixed or "vit" in name else {}
    try:
        return timm.create_model(name, num_classes=0, pretrained=pretrained, **options)
    except TypeError:
        return timm.create_model(name, num_classes=0, pretrained=pretrained)


def _torchvision_backbone(name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    linear = [key for key, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ModelError(f"the backbone '{name}' has no linear classifier to replace: choose another.")
    parent, _, child = linear[-1].rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
    return module


def _num_features(module: nn.Module, name: str, image_size: int) -> int:
    """Measure D by a forward pass, since the libraries' own figures are sometimes wrong."""
    module.eval()
    try:
        with torch.inference_mode():
            features = module(torch.zeros(1, 3, image_size, image_size))
        rows, columns = features.shape
    except Exception as error:  # any layer may raise, each in its own way
        raise ModelError(
            f"the backbone '{name}' gives no feature vector for images of {image_size} px ({type(error).__name__}: "
            f"{visible(error)}): change image.size or choose another."
        ) from None
    if rows != 1:
        raise ModelError(f"the backbone '{name}' gives {rows} rows for one image: choose another.")
    return int(columns)
