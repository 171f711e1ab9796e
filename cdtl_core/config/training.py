"""Settings of what a site trains: task, images, model, steps, split."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cdtl_core.config.forms import MODEL_NAME, NAME
from cdtl_core.config.modalities import modality_of
from cdtl_core.config.schema import Label, Line
from cdtl_core.errors import ConfigError

__all__ = [
    "NAMED_WEIGHTS",
    "AugmentConfig",
    "ImageConfig",
    "ModalityName",
    "ModelConfig",
    "Pooling",
    "Settings",
    "SplitConfig",
    "TaskConfig",
    "TrainConfig",
    "Unit",
    "setting_keys",
    "table_of",
]

_Name = Annotated[str, Field(pattern=NAME)]
NAMED_WEIGHTS = frozenset({"imagenet", "random"})
"""Values of `model.weights` that are no file."""
_Share = Annotated[float, Field(ge=0, le=1)]
Unit = Literal["image", "exam", "patient"]
"""What has a label, a score and a place in every metric."""
Pooling = Literal["mean", "max", "lse", "attention"]


def _known_modality(value: str) -> str:
    try:
        return modality_of(value).name
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from None


ModalityName = Annotated[str, AfterValidator(_known_modality)]


class Settings(BaseModel):
    """Base of all tables of settings: closed, frozen, and only finite numbers. Results may be cached by settings.

    The text below a field is its meaning in templates, in `cdtl config list settings` and in the reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # pydantic's own fails on tables such as blend.donors, which are dicts


def table_of(annotation: Any) -> type[BaseModel] | None:
    """Return the table of settings that a field holds, also one of several or an optional one; None for a value."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def setting_keys(kind: type[BaseModel], start: str = "", *, tables: bool = False) -> Iterator[str]:
    """Yield the keys of all settings below a table, with dots.

    Args:
        kind: The table.
        start: Put before each key.
        tables: Also the keys of tables.
    """
    for name, field in kind.model_fields.items():
        part = table_of(field.annotation)
        if part is None or tables:
            yield start + name
        if part is not None:
            yield from setting_keys(part, f"{start}{name}.", tables=tables)


class TaskConfig(Settings):
    """The prediction task."""

    labels: tuple[Label, ...] = Field(("benign", "malignant"), min_length=2, max_length=64)
    """The labels that all sites predict, two or more. Sites translate their own words by `data.label_map`."""
    positive: Label = "malignant"
    """The label whose probability is the score of AUROC, sensitivity and specificity; one of `task.labels`."""
    unit: Unit = "image"
    """What has a label, a score and a place in every metric: an image; an exam, all rows of the manifest with the same
    `exam_id`; or a patient with all her images. With exam and patient all images of a file count, such as the slices of
    a volume."""

    @model_validator(mode="after")
    def _positive_is_a_label(self) -> "TaskConfig":
        if self.positive not in self.labels or len(set(self.labels)) != len(self.labels):
            labels = ", ".join(self.labels)
            raise ValueError(f"positive label '{self.positive}' must be one of the distinct labels {labels}")
        return self


class ImageConfig(Settings):
    """The images as the network sees them."""

    size: int = Field(128, ge=32, le=1024)
    """Side of the square input images, in pixels."""


class ModelConfig(Settings):
    """The network and its initial weights."""

    backbone: str = Field("efficientnet_lite0", pattern=MODEL_NAME)
    """Name of the network without its classifier; `cdtl config list backbones` names them."""
    weights: Line = "imagenet"
    """Initial weights: imagenet, random, or a .safetensors file, relative to the configuration file."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the features that each training step drops before the head."""
    levels: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Stages of the backbone, from 1 as in `train.freeze`, whose pooled outputs are the features; each is scaled to
    unit length, and all are centred by the site's own mean. Empty: the features are the backbone's own output."""
    regions: Literal["whole", "centre"] = "whole"
    """Where the outputs of `model.levels` are pooled: over the whole image, or twice, over its central half and over
    the rest."""
    adapter: int = Field(0, ge=0)
    """Width of a small residual layer between features and head; 0: none."""
    lora: int = Field(0, ge=0, le=64)
    """Rank of low-rank adapters (LoRA, Hu et al. 2022) beside the backbone's linear layers; of the backbone only they
    are then trained and sent. For vision transformers. 0: none."""
    lora_shared: Literal["both", "a"] = "both"
    """Which half of each low-rank adapter is shared: both, or A alone, and B stays at the site (FedSA-LoRA, Guo et al.
    2025)."""
    pooling: Pooling = "mean"
    """How the features of an exam's images become one: their mean, their largest values, their log-sum-exp (between
    both), or attention, which learns the weight of each image (Ilse et al. 2018). With one image all are the same."""

    @model_validator(mode="after")
    def _regions_of_levels(self) -> "ModelConfig":
        if self.regions != "whole" and not self.levels:
            raise ValueError(
                f"regions = '{self.regions}' needs stages to pool, and model.levels is empty: set model.levels"
            )
        return self


class AugmentConfig(Settings):
    """Random changes of training images: the chance of a flip, and the largest change of each kind.

    The last three teach what does not depend on how a modality renders a lesion: dark in ultrasound, bright in
    mammography.
    """

    flip: _Share = 0.5
    """Chance that an image is mirrored left to right."""
    rotate_deg: float = Field(10.0, ge=0, le=180)
    """Largest rotation, in degrees."""
    translate: _Share = 0.06
    """Largest shift, as a share of the image's side."""
    scale: float = Field(0.1, ge=0, lt=1)
    """Largest change of size, as a share."""
    brightness: float = Field(0.1, ge=0, lt=1)
    """Largest change of brightness, as a share of the full range."""
    contrast: float = Field(0.15, ge=0, lt=1)
    """Largest change of contrast, as a share."""
    noise: float = Field(0.01, ge=0, lt=1)
    """Standard deviation of the noise of each pixel, as a share of the full range."""
    invert: _Share = 0.0
    """Chance that an image is inverted, black for white."""
    gamma: float = Field(0.0, ge=0, lt=3)
    """Largest change of the logarithm of the exponent of gamma; 0: none."""
    blur: _Share = 0.0
    """Chance that an image is smoothed over 5 x 5 pixels."""
    transforms: tuple[_Name, ...] = Field((), examples=[["speckle"]])
    """Changes of your own, by name and in this order, after all others; `cdtl config list transforms` names them."""


class TrainConfig(Settings):
    """Local training in one round."""

    steps: int = Field(12, ge=0)
    """Training steps in a round, the same number at every site."""
    batch_size: int = Field(24, ge=2)
    """Images in a step; exams or patients if `task.unit` says so."""
    exam_images: int = Field(8, ge=1)
    """Most images of an exam in a step; of more, each step draws this number at random. A step holds up to
    `train.batch_size` times as many images in memory. Scores use all images."""
    lr: float = Field(5e-4, gt=0)
    """Learning rate of the backbone in the first round."""
    lr_decay: float = Field(0.1, ge=0)
    """Decay of the learning rate: in round t it is lr / (1 + lr_decay (t - 1))."""
    head_lr_factor: float = Field(4.0, gt=0)
    """Learning rate of the head, as a multiple of `train.lr`."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    class_weighted: bool = True
    """Weigh each label inversely to its number of images at the site."""
    loss: _Name = "cross_entropy"
    """What training minimises; `cdtl config list losses` names all losses."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the running average of the weights in a round, which is sent in their place; 0: no average."""
    freeze: int = Field(0, ge=0)
    """Number of early stages of the backbone that keep the initial weights."""
    views: int = Field(0, ge=0)
    """Augmented views of each image, drawn once, in addition to the unchanged image. A step takes one of them at
    random, and the output of the frozen stages is stored for each. 0: each step augments its images again. Runs with
    `dp.enabled` use `dp.views`."""
    views_seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the views. It is not the run's seed, so runs with different seeds share stored outputs."""
    refresh_norms: bool = True
    """Compute the statistics of the site's batch norms again for the weights that it receives at the end."""
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _views_of_frozen_stages(self) -> "TrainConfig":
        if self.views and not self.freeze:
            raise ValueError("views is above 0 and train.freeze is 0: freeze the stages it skips, or set views to 0")
        return self


class SplitConfig(Settings):
    """Shares of patients held out for test and validation."""

    test: float = Field(0.25, gt=0, lt=1)
    """Share of the site's patients for the test, which nothing is chosen on."""
    val: float = Field(0.15, gt=0, lt=1)
    """Share of the site's patients for validation: model selection and calibration."""

    @model_validator(mode="after")
    def _something_left(self) -> "SplitConfig":
        if self.test + self.val >= 0.9:
            raise ValueError(
                f"split.test + split.val is {self.test + self.val:.2f}: at least 0.1 must be left to train on; lower "
                "one of them"
            )
        return self
