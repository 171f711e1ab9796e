"""The classifier and its split into shared, local and frozen tensors, decided by the type of each module."""

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from cdtl_core.config import ModelConfig, RunConfig
from cdtl_core.errors import ConfigError, ModelError
from cdtl_core.models.backbones import Backbone, any_backbone, build_backbone
from cdtl_core.models.draws import PatientDropout
from cdtl_core.models.end import Adapter, Centre, End
from cdtl_core.models.exams import Batch, Exams, pooling_of
from cdtl_core.models.libraries import torchvision
from cdtl_core.models.lora import add_lora, is_lora, is_lora_b
from cdtl_core.models.pooling import pooled
from cdtl_core.models.stages import NORMS, freeze_norms, level_modules, skip_stages, stages_of, tensors_of_stages

__all__ = ["OF_HEAD", "Classifier", "Parts", "build_classifier", "build_feature_classifier"]
__all__ += ["frozen_stages", "parts_of", "set_training", "shared_classifier"]

OF_HEAD = ("head.", "pooling.")
"""Beginnings of the names of tensors that are shared or local as the head is: the head, and attention over images."""


class Classifier(nn.Module):
    """A backbone and a linear head with dropout before it: B 3 H W to logits B K.

    A batch may also be `Exams` with several images each; the features of an exam's images become one before the head
    (`model.pooling`).

    The head starts at zero, so it is the same at every site without being sent, and the first steps do not distort the
    features. With `levels`, the features are the pooled outputs of those stages, each of unit length, centred;
    `feature_length` is their total length. `entry` says what the input is: None for features, 0 for images, and n for
    the output of the first n stages; `behind` gives a network with another one.

    Source: eq. (8), Inbaraj et al. 2025 (dropout on the activations before the head).
    """

    def __init__(self, config: ModelConfig, num_classes: int, found: Backbone, image_size: int | None) -> None:
        super().__init__()
        self.backbone = found.module
        self.name, self.levels, self.regions = config.backbone, config.levels, config.regions
        self.lora, self.keeps_b = config.lora, config.lora_shared == "a"
        self.entry: int | None = 0
        self.mean, self.std = found.mean, found.std
        num_features = self._num_features(image_size) if self.levels and image_size else found.num_features
        self.centre = Centre(num_features) if self.levels else nn.Identity()
        self.adapter = Adapter(num_features, config.adapter) if config.adapter else nn.Identity()
        self.pooling = pooling_of(config.pooling, num_features)
        self.dropout = PatientDropout(config.dropout)
        self.head = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Batch) -> torch.Tensor:
        """Return logits B K of normalised images B 3 H W, or of the images of exams."""
        if isinstance(images, Exams):
            return self.classify(images.map(self.features))
        return self.classify(self.features(images))

    def behind(self, entry: int | None) -> "Classifier":
        """Return this network as one that takes the output of its first `entry` stages; all tensors are shared."""
        view = copy.copy(self)
        view.entry = entry
        return view

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features B D of normalised images B 3 H W, or of the stage output that `entry` names."""
        if self.entry is None:
            return images
        if not self.levels:
            return self._run(images, self.entry)
        outputs: dict[int, torch.Tensor] = {}

        def keep(level: int) -> Any:
            return lambda _module, _inputs, output: outputs.__setitem__(level, output)

        modules = zip(self.levels, level_modules(self.backbone, self.levels), strict=True)
        hooks = [module.register_forward_hook(keep(level)) for level, module in modules]
        try:
            self._run(images, self.entry)
        finally:
            for hook in hooks:
                hook.remove()
        parts = [part for level in self.levels for part in pooled(outputs[level], self.regions)]
        return torch.cat([normalize(part, dim=1) for part in parts], 1)

    @property
    def backbones(self) -> tuple[nn.Module, ...]:
        """The backbones of the model; a pool of two models has two."""
        return (self.backbone,)

    def classify(self, features: Batch) -> torch.Tensor:
        """Return logits B K of features B D, or of the features of exams."""
        logits: torch.Tensor = self.end()(features)
        return logits

    def weights(self, features: Exams) -> torch.Tensor:
        """Return how much each image counts in its exam's decision, N, of features; the sum over an exam is 1."""
        return self.end().weights(features)

    def end(self) -> End:
        """The layers behind the backbone as one module, features B D to logits B K, with the same tensors."""
        return End(self.centre, self.adapter, self.pooling, self.dropout, self.head)

    @property
    def feature_length(self) -> float:
        """Length of the features from `levels` before centring: one unit for each stage and region."""
        parts = len(self.levels) * (1 if self.regions == "whole" else 2)
        return math.sqrt(parts)

    def _run(self, images: torch.Tensor, entry: int) -> torch.Tensor:
        with skip_stages(self.backbone, entry):
            features: torch.Tensor = self.backbone(images)
        return features

    def _num_features(self, image_size: int) -> int:
        self.backbone.eval()
        with torch.inference_mode():
            return self.features(torch.zeros(1, 3, image_size, image_size)).shape[1]


class _KeptStage(nn.Module):
    """Replaces a stage whose output is cached."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.empty(0))


@dataclass(frozen=True)
class Parts:
    """Names of a classifier's tensors by destination.

    Attributes:
        shared: Trained; leave the site as a difference from the weights received. With `model.lora` of the backbone
            only the low-rank adapters.
        local: Trained; stay on the site's disk: affine parameters and running statistics of norms, the centre of the
            features, the B of low-rank adapters with ``model.lora_shared = "a"``, and a head that is not shared.
    """

    shared: tuple[str, ...]
    local: tuple[str, ...]


def build_classifier(
    config: ModelConfig, num_classes: int, image_size: int, *, frozen_norms: bool = False
) -> Classifier:
    """Build a classifier whose backbone has arbitrary weights; `initial_weights` fills it.

    Args:
        config: Of the network.
        num_classes: K.
        image_size: In pixels.
        frozen_norms: Whether the norms are constants, as differential privacy needs them.

    Raises:
        ModelError: The backbone is unknown, or has fewer stages than `config.levels` names.
    """
    with torch.random.fork_rng(devices=[]):
        return _around(build_backbone(config.backbone, image_size), config, num_classes, image_size, frozen_norms)


def _around(found: Backbone, config: ModelConfig, num_classes: int, image_size: int, frozen_norms: bool) -> Classifier:
    if config.lora:
        add_lora(found.module, config.lora)
    if frozen_norms:
        freeze_norms(found.module)
    return Classifier(config, num_classes, found, image_size).to(memory_format=torch.channels_last)


def shared_classifier(
    config: ModelConfig, num_classes: int, image_size: int, *, frozen_norms: bool = False
) -> Classifier:
    """Return the network of an architecture, one per process, for its structure: its weights are those of the last use.

    Load all weights before you use them. Arguments and errors as of `build_classifier`.
    """
    return _shared(config, num_classes, image_size, frozen_norms)


@functools.lru_cache(maxsize=4)
def _shared(config: ModelConfig, num_classes: int, image_size: int, frozen_norms: bool) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        return _around(any_backbone(config.backbone, image_size), config, num_classes, image_size, frozen_norms)


def build_feature_classifier(whole: Classifier, config: ModelConfig) -> Classifier:
    """Build a classifier of cached features from the layers behind the backbone of `whole`.

    Its backbone has the same number of stages and no weights. If no stage is trained, a federation of such classifiers
    gives the same heads as one of whole networks.
    """
    stages = [_KeptStage() for _ in stages_of(whole.backbone)]
    found = Backbone(nn.Sequential(*stages), whole.head.in_features, whole.mean, whole.std)
    return Classifier(config, whole.head.out_features, found, None)


def frozen_stages(model: Classifier, config: RunConfig) -> int:
    """Return how many stages keep the initial weights; with `dp.enabled` all but the last `dp.stages`.

    Raises:
        ConfigError: The backbone has fewer stages than `dp.stages`.
    """
    if not config.dp.enabled:
        return config.train.freeze
    count = max(model.levels) if model.levels else len(stages_of(model.backbone))
    if config.dp.stages > count:
        raise ConfigError(
            f"dp.stages is {config.dp.stages}, {count} stages of the backbone are in use: use at most this number."
        )
    return count - config.dp.stages


def parts_of(model: Classifier, *, freeze: int, share_head: bool) -> Parts:
    """Divide a classifier's tensors into shared and local; frozen and unused stages are in neither part.

    Args:
        model: The classifier.
        freeze: Number of early stages that keep the initial weights.
        share_head: Whether the head is shared.

    Raises:
        ModelError: The backbone has fewer stages than `freeze`, or `model.lora` has nothing to train.
    """
    frozen = _untrained(model, freeze)
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.backbone.named_modules(prefix="backbone")
        if isinstance(module, NORMS)
        for name, value in module.state_dict().items()
        if value.is_floating_point() and not isinstance(module, torchvision.ops.FrozenBatchNorm2d)
    }
    centre = [f"centre.{name}" for name in model.centre.state_dict()]
    heads = [name for name, _ in model.named_parameters() if name.startswith(OF_HEAD)]
    weights = [name for name, _ in model.named_parameters(prefix="") if not name.startswith(OF_HEAD)]
    kept = norms - frozen | {name for name in weights if model.keeps_b and is_lora_b(name) and name not in frozen}
    shared = [name for name in weights if name not in kept | frozen]
    if model.lora and not any(map(is_lora, shared)):
        raise ModelError(
            "model.lora trains nothing, since every stage in use is frozen: lower train.freeze, with privacy raise "
            "dp.stages, or set model.lora to 0."
        )
    local = [name for name in model.state_dict() if name in kept] + centre
    return Parts(tuple(shared + heads * share_head), tuple(local + heads * (not share_head)))


def set_training(model: Classifier, *, freeze: int) -> None:
    """Switch to training mode; the first `freeze` stages get no gradient and keep the statistics of their norms."""
    frozen = _untrained(model, freeze)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.train()
    if model.lora:
        for module in model.backbone.modules():  # its own layers are constants, norms and dropout too
            module.training = isinstance(module, nn.Linear)  # Opacus takes notes of a layer that trains
    for stage in stages_of(model.backbone)[:freeze]:
        for _, module in stage:
            module.eval()


def _untrained(model: Classifier, freeze: int) -> set[str]:
    beyond = max(model.levels) if model.levels else None
    frozen = tensors_of_stages(model.backbone, freeze, beyond=beyond)
    if model.lora:
        frozen |= {f"backbone.{name}" for name in model.backbone.state_dict() if not is_lora(name)}
    return frozen
