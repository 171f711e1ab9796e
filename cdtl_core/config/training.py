"""Settings of what a site trains: task, images, model, steps, split."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cdtl_core.config.modalities import modality_of
from cdtl_core.config.schema import Label, Line
from cdtl_core.errors import ConfigError

__all__ = [
    "AugmentConfig",
    "ImageConfig",
    "ModalityName",
    "ModelConfig",
    "Settings",
    "SplitConfig",
    "TaskConfig",
    "TrainConfig",
]

_Share = Annotated[float, Field(ge=0, le=1)]


def _known_modality(value: str) -> str:
    try:
        return modality_of(value).name
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from None


ModalityName = Annotated[str, AfterValidator(_known_modality)]


class Settings(BaseModel):
    """Base of all tables of settings: closed, frozen, and only finite numbers. Results may be cached by settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # pydantic's own fails on tables such as blend.donors, which are dicts


class TaskConfig(Settings):
    """The prediction task. `positive` is the label whose probability is the score."""

    labels: tuple[Label, ...] = Field(("benign", "malignant"), min_length=2, max_length=64)
    positive: Label = "malignant"

    @model_validator(mode="after")
    def _positive_is_a_label(self) -> "TaskConfig":
        if self.positive not in self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"positive label '{self.positive}' must be one of the distinct labels {self.labels}")
        return self


class ImageConfig(Settings):
    """Size of the input images in pixels."""

    size: int = Field(128, ge=32, le=1024)


class ModelConfig(Settings):
    """Backbone, source of its initial weights (`imagenet`, `random` or a .safetensors file), dropout.

    `levels` lists stages of the backbone, counted from 1 as in `train.freeze`. Their pooled outputs form the features,
    each scaled to unit length and all centred by the site's own mean. Without levels the features are the backbone's
    own output. With `regions` = ``centre`` each stage's output is pooled twice: over the image's central half and over
    the rest. `adapter` is the width of a small residual layer between features and head; 0: none.
    """

    backbone: str = Field("efficientnet_lite0", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$")
    weights: Line = "imagenet"
    dropout: float = Field(0.2, ge=0, lt=1)
    levels: tuple[Annotated[int, Field(ge=1)], ...] = ()
    regions: Literal["whole", "centre"] = "whole"
    adapter: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _regions_of_levels(self) -> "ModelConfig":
        if self.regions != "whole" and not self.levels:
            raise ValueError(
                f"regions = '{self.regions}' needs stages to pool, and model.levels is empty: set model.levels"
            )
        return self


class AugmentConfig(Settings):
    """Random changes of training images: the probability of a flip, and the largest change of each kind.

    `invert` and `blur` are chances that an image is inverted (black for white) and smoothed over 5 x 5 pixels; `gamma`
    is the widest change of the logarithm of its exponent. They teach what does not depend on how a modality renders a
    lesion: dark in ultrasound, bright in mammography.
    """

    flip: _Share = 0.5
    rotate_deg: float = Field(10.0, ge=0, le=180)
    translate: _Share = 0.06
    scale: float = Field(0.1, ge=0, lt=1)
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.15, ge=0, lt=1)
    noise: float = Field(0.01, ge=0, lt=1)
    invert: _Share = 0.0
    gamma: float = Field(0.0, ge=0, lt=3)
    blur: _Share = 0.0


class TrainConfig(Settings):
    """Local training in one round.

    `steps` is the same at every site. `freeze` counts the early stages that keep the initial weights.

    With `views` above 0 each image has a fixed pool of views: the unchanged image and this number of augmented ones,
    drawn by `views_seed` and not by the run's seed. A step takes one of them at random. The output of the frozen stages
    is computed once per view and stored in the feature cache as float16. With `views` 0 each step augments its images
    again. Runs with `dp.enabled` use `dp.views` instead.
    """

    steps: int = Field(12, ge=0)
    batch_size: int = Field(24, ge=2)
    lr: float = Field(5e-4, gt=0)
    lr_decay: float = Field(0.1, ge=0)
    head_lr_factor: float = Field(4.0, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    class_weighted: bool = True
    ema: float = Field(0.0, ge=0, lt=1)
    freeze: int = Field(0, ge=0)
    views: int = Field(0, ge=0)
    views_seed: int = Field(0, ge=0, lt=2**31)
    refresh_norms: bool = True
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _views_of_frozen_stages(self) -> "TrainConfig":
        if self.views and not self.freeze:
            raise ValueError("views is above 0 and train.freeze is 0: freeze the stages it skips, or set views to 0")
        return self


class SplitConfig(Settings):
    """Shares of patients held out for test and validation."""

    test: float = Field(0.25, gt=0, lt=1)
    val: float = Field(0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_left(self) -> "SplitConfig":
        if self.test + self.val >= 0.9:
            raise ValueError(
                f"split.test + split.val is {self.test + self.val:.2f}: at least 0.1 must be left to train on; lower "
                "one of them"
            )
        return self
