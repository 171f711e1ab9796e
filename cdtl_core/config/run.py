"""Settings that all sites of a federation agree on."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cdtl_core.config.schema import FORMERLY_THETA0, MAX_ROUNDS, SiteName
from cdtl_core.config.training import ImageConfig, ModelConfig, Settings, SplitConfig, TaskConfig, TrainConfig

__all__ = [
    "AggregateConfig",
    "BlendConfig",
    "DpConfig",
    "FederationConfig",
    "LimitsConfig",
    "Method",
    "ModelSelectionConfig",
]
__all__ += ["PoolConfig", "RunConfig", "ShareConfig"]

Method = Literal["alone", "fedbn", "cdtl"]
_Share = Annotated[float, Field(ge=0, le=1)]


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
    donors: dict[SiteName, tuple[SiteName, ...]] = Field({})

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
