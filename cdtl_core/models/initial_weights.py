"""The initial weights of a federation, built from the seed or from a file."""

import functools
from pathlib import Path

import torch

from cdtl_core.config import NAMED_WEIGHTS, ModelConfig
from cdtl_core.models.backbones import build_backbone, give_back, load_initial_weights
from cdtl_core.models.lora import add_lora
from cdtl_core.models.model import Classifier
from cdtl_core.models.weights import Weights, check_finite

__all__ = ["build_initial_weights"]


def build_initial_weights(config: ModelConfig, seed: int, image_size: int, *, folder: Path = Path()) -> Weights:
    """Return the initial weights of a federation: all floating-point tensors of backbone and adapter.

    A run asks for them twice, so the last ones with a name or from a seed are kept: do not write to them.

    Args:
        config: The network; its ``weights`` may be a file, relative to `folder`.
        seed: Of random weights.
        image_size: In pixels.
        folder: By default the working folder.

    Raises:
        ModelError: The backbone is unknown, or its weights can't be had or are not finite.
    """
    if config.weights in NAMED_WEIGHTS:
        return dict(_named_weights(config, seed, image_size))
    return _initial_weights(config, seed, image_size, str(folder / Path(config.weights).expanduser()))


@functools.lru_cache(maxsize=1)
def _named_weights(config: ModelConfig, seed: int, image_size: int) -> Weights:
    return _initial_weights(config, seed, image_size, config.weights)


def _initial_weights(config: ModelConfig, seed: int, image_size: int, source: str) -> Weights:
    """Build them; arguments as of `build_initial_weights`, and a name or a file of weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(config.backbone, image_size)
        load_initial_weights(backbone, config.backbone, source, image_size)
        if config.lora:
            add_lora(backbone.module, config.lora)
        state = backbone.module.state_dict()
        whole = Classifier(config, 2, backbone, image_size) if config.adapter else None
    initial_weights = {
        f"backbone.{name}": value.detach().clone() for name, value in state.items() if value.is_floating_point()
    }
    if whole is not None:
        initial_weights |= {
            f"adapter.{name}": value.detach().clone() for name, value in whole.adapter.state_dict().items()
        }
    check_finite(initial_weights, "initial_weights")
    if source in NAMED_WEIGHTS and not config.lora and whole is None:
        give_back(backbone, config.backbone, image_size)
    return initial_weights
