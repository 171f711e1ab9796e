"""Settings that all sites of a federation agree on."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cdtl_core.config.modalities import modality_of
from cdtl_core.config.schema import FORMERLY_THETA0, MAX_ROUNDS, Label, Line, SiteName
from cdtl_core.errors import ConfigError

__all__ = [
    "AggregateConfig",
    "BlendConfig",
    "DpConfig",
    "LimitsConfig",
    "Method",
    "ModalityName",
    "ModelConfig",
    "RunConfig",
    "Settings",
    "SiteName",
]
__all__ += ["TrainConfig"]

Method = Literal["alone", "fedbn", "cdtl"]
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


class FederationConfig(Settings):
    """Number of rounds, the sites, how many must answer, how long to wait, and how sites are weighted.

    `sites` lists the sites that may take part; an empty list admits all connected sites, for simulations. The run
    starts when all of them have introduced themselves or `join_timeout_s` has passed. Then, and in each round within
    `round_timeout_s`, at least `min_sites` sites and `min_per_modality` sites of each modality must answer.
    `patient_cap` limits the number of patients by which one site is weighted; 0: no limit.
    """

    rounds: int = Field(8, ge=1, le=MAX_ROUNDS)
    sites: tuple[SiteName, ...] = ()
    min_sites: int = Field(1, ge=1)
    min_per_modality: int = Field(0, ge=0)
    join_timeout_s: float = Field(86400.0, gt=0)
    round_timeout_s: float = Field(3600.0, gt=0)
    patient_cap: int = Field(0, ge=0)


class BlendConfig(Settings):
    """How modalities blend, see `cdtl_core.federation.blend`.

    `warmup` and `settle` rounds at the start and the end run without blending. `donors` lists the donors of each
    receiving modality. A modality without an entry receives from all others, one with an empty list from none.
    """

    policy: Literal["size", "fixed", "retention", "annealed", "scarce"] = "size"
    alpha: _Share = 0.9
    warmup: int = Field(0, ge=0)
    settle: int = Field(0, ge=0)
    depth: Literal["none", "share_early", "share_late"] = "none"
    half_patients: float = Field(50.0, gt=0)
    retention_min: _Share = 0.2
    retention_max: _Share = 0.95
    donors: dict[SiteName, tuple[SiteName, ...]] = {}

    @model_validator(mode="after")
    def _bounds(self) -> "BlendConfig":
        if self.retention_min > self.retention_max:
            raise ValueError(f"retention_min {self.retention_min} is above retention_max {self.retention_max}")
        return self


class AggregateConfig(Settings):
    """How updates are screened and averaged within a modality, see `cdtl_core.federation.screening`.

    `norm_bound` is the largest allowed update norm, as a multiple of the running median of the site's modality; 0
    disables the check. A site with `strikes` refused updates is quarantined: none of its updates counts any more, and
    at the end it receives the model; 0 disables quarantine. `robust` replaces the patient-weighted mean where four
    sites of a modality answer.
    """

    robust: Literal["none", "trimmed", "median", "krum"] = "none"
    norm_bound: float = Field(3.0, ge=0)
    strikes: int = Field(2, ge=0)


class ShareConfig(Settings):
    """Whether sites with the same label map share the classifier head."""

    head: bool = True


class PoolConfig(Settings):
    """How a site pools its own model and the joint model, see `cdtl_core.federation.pool`.

    `share` = ``evidence`` sets the share from patients that neither model was trained on; ``equal`` weighs both models
    the same. `networks` applies to two fine-tuned networks: ``two`` keeps both; ``evidence`` replaces them by one
    network between them if at least 20 validation patients find it no worse.
    """

    share: Literal["evidence", "equal"] = "evidence"
    networks: Literal["two", "evidence"] = "two"


class ModelSelectionConfig(Settings):
    """Use the pool unless at least 20 validation patients find the own model better by `standard_errors`."""

    enabled: bool = True
    standard_errors: float = Field(1.0, ge=0)


class DpConfig(Settings):
    """Differential privacy of each patient at each site, see docs/privacy.md.

    With `enabled` private and exempt sites train the same small part of the network: the head, the adapter of
    `model.adapter`, and the last `stages` of the backbone. `required` excludes exempt sites. `target_epsilon` at
    `target_delta` bounds everything that a site has ever spent on its patients, including this run. `max_grad_norm`
    clips a patient's gradient. That gradient is the mean over `multiplicity` of her images, each in one of 1 + `views`
    views; with `stages` above 0 it is the gradient of one augmented image. `batch_patients` is the expected number of
    patients in a step; 0: all. Steps are plain SGD with `lr` and `momentum`. Of `train` only `steps` and `lr_decay`
    apply. With `model.levels`, a site's first round takes `centre_steps` more to compute the centre of its features.
    """

    enabled: bool = False
    required: bool = False
    target_epsilon: float = Field(8.0, gt=0)
    target_delta: float = Field(1e-5, gt=0, lt=1)
    max_grad_norm: float = Field(1.5, gt=0)
    stages: int = Field(0, ge=0)
    batch_patients: int = Field(0, ge=0)
    multiplicity: int = Field(2, ge=1)
    views: int = Field(0, ge=0)
    centre_steps: int = Field(4, ge=1)
    lr: float = Field(0.2, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)

    @model_validator(mode="after")
    def _required_is_enabled(self) -> "DpConfig":
        if self.required and not self.enabled:
            raise ValueError("dp.required asks for what dp.enabled = false switches off: set dp.enabled = true")
        return self


class LimitsConfig(Settings):
    """How much of a run a site approves, in addition to `federation.rounds`.

    `runs` is how often the run may start from its first round; a resume after a crash is the same run. `evaluations` is
    how many final evaluations each of these may ask for. `initial_weights_hash` is the SHA-256 of the initial weights;
    `cdtl server run` fills it in. While it is empty, as in simulations, nothing is counted.
    """

    runs: int = Field(1, ge=1, le=100)
    evaluations: int = Field(1, ge=1, le=100)
    initial_weights_hash: str = Field("", pattern=r"^([0-9a-f]{64})?$", validation_alias=FORMERLY_THETA0)


class RunConfig(Settings):
    """All settings that the sites of one federation agree on."""

    name: SiteName = "federation"
    method: Method = "cdtl"
    seed: int = Field(0, ge=0, lt=2**31)
    task: TaskConfig = TaskConfig()
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    split: SplitConfig = SplitConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()
    aggregate: AggregateConfig = AggregateConfig()
    blend: BlendConfig = BlendConfig()
    share: ShareConfig = ShareConfig()
    pool: PoolConfig = PoolConfig()
    model_selection: ModelSelectionConfig = ModelSelectionConfig()
    dp: DpConfig = DpConfig()
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _levels_behind_views(self) -> "RunConfig":
        levels, freeze = self.model.levels, self.train.freeze
        skipped = [level for level in levels if level <= freeze]
        if self.train.views and skipped and max(levels) > freeze and not self.dp.enabled:
            raise ValueError(
                f"model.levels names stages before and behind train.freeze = {freeze}, and train.views skips the "
                f"former: freeze up to stage {max(levels)} or up to {min(levels) - 1}, or set train.views to 0"
            )
        return self

    @model_validator(mode="after")
    def _no_outvoted_noise(self) -> "RunConfig":
        if self.dp.enabled and self.aggregate.robust != "none":
            raise ValueError(
                f"aggregate.robust = '{self.aggregate.robust}' takes the noise of a small private site for an attack: "
                "set it to 'none' with dp.enabled"
            )
        return self
