"""Settings that all sites of a federation agree on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cdtl_core.config.forms import PACKAGE
from cdtl_core.config.schema import FORMERLY_THETA0, MAX_ROUNDS, SiteName
from cdtl_core.config.training import ImageConfig, ModelConfig, Settings, SplitConfig, TaskConfig, TrainConfig

__all__ = [
    "POLICIES",
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

POLICIES: Mapping[str, str] = {
    "size": "every modality weighs by its patients (FedBN)",
    "fixed": "each modality keeps the share blend.alpha of its own in every round",
    "retention": "own share from n patients, n / (n + blend.half_patients), over the whole run",
    "annealed": "own share from 1/K (K modalities) in the first blending round to 1 in the last",
    "scarce": "each modality takes only from those with more patients, with the own share n / (n + "
    "blend.half_patients) in every round",
}
"""Values of `blend.policy` and their meaning; docs/decisions.md compares them."""


class FederationConfig(Settings):
    """Rounds, sites, how many must answer and how long to wait."""

    rounds: int = Field(8, ge=1, le=MAX_ROUNDS)
    """Number of rounds."""
    sites: tuple[SiteName, ...] = ()
    """Sites that may take part; empty: all admitted sites. A simulation has the sites of its file."""
    min_sites: int = Field(1, ge=1)
    """Fewest sites that must answer, at the start and in each round."""
    min_per_modality: int = Field(0, ge=0)
    """Fewest sites of each modality that must answer, at the start and in each round."""
    join_timeout_s: float = Field(86400.0, gt=0)
    """Longest wait for the sites' introductions and approvals, in seconds."""
    round_timeout_s: float = Field(3600.0, gt=0)
    """Longest wait for the answers of a round, in seconds."""
    patient_cap: int = Field(0, ge=0)
    """Largest number of patients by which one site is weighted; 0: no limit."""

    @model_validator(mode="after")
    def _enough_sites(self) -> "FederationConfig":
        for key in ("min_sites", "min_per_modality"):
            if self.sites and getattr(self, key) > len(self.sites):
                named = len(self.sites)
                raise ValueError(f"{key} is {getattr(self, key)} and sites names {named}, so no round could end")
        return self

    def too_few(self, modalities: Iterable[str]) -> str:
        """Return why a run of sites with these modalities, one a site, could never start; empty if it could."""
        counts = Counter(modalities)
        if self.min_sites > counts.total():
            return (
                f"federation.min_sites is {self.min_sites} and the run has {counts.total()} sites: lower "
                "federation.min_sites."
            )
        for modality, count in sorted(counts.items()):
            if count < self.min_per_modality:
                return (
                    f"federation.min_per_modality is {self.min_per_modality} and the run has {count} with "
                    f"{modality}: lower it, or leave that modality out of federation.sites."
                )
        return ""


class BlendConfig(Settings):
    """How modalities blend in the rounds, see docs/decisions.md."""

    policy: Literal["size", "fixed", "retention", "annealed", "scarce"] = Field(
        "size", description=f"How modalities blend. {'; '.join(f'{name}: {text}' for name, text in POLICIES.items())}."
    )
    alpha: _Share = 0.9
    """Own share of a modality in each round, for the policy fixed."""
    warmup: int = Field(0, ge=0)
    """Rounds at the start without blending."""
    settle: int = Field(0, ge=0)
    """Rounds at the end without blending."""
    depth: Literal["none", "share_early", "share_late"] = "none"
    """Whether early or late layers are shared more than the others."""
    half_patients: float = Field(50.0, gt=0)
    """Number of patients at which a modality's own share is one half, for the policies retention and scarce."""
    retention_min: _Share = 0.2
    """Smallest own share over the whole run, for the policy retention."""
    retention_max: _Share = 0.95
    """Largest own share over the whole run, for the policy retention."""
    donors: dict[SiteName, tuple[SiteName, ...]] = Field({}, examples=[{"mri": ["ultrasound"]}])
    """Donors of each receiving modality. A modality without an entry receives from all others, one with an empty list
    from none."""

    @model_validator(mode="after")
    def _bounds(self) -> "BlendConfig":
        if self.retention_min > self.retention_max:
            raise ValueError(f"retention_min {self.retention_min} is above retention_max {self.retention_max}")
        return self


class AggregateConfig(Settings):
    """How updates are screened and averaged within a modality."""

    robust: Literal["none", "trimmed", "median", "krum"] = "none"
    """Robust mean in place of the patient-weighted one, where four sites of a modality answer."""
    norm_bound: float = Field(3.0, ge=0)
    """Largest allowed update norm, as a multiple of the running median of the site's modality; 0: no check."""
    strikes: int = Field(2, ge=0)
    """Refused updates after which a site is quarantined: no update of it counts any more, and at the end it receives
    the model. 0: no quarantine."""


class ShareConfig(Settings):
    """What is shared besides the backbone."""

    head: bool = True
    """Whether sites with the same label map share the classifier head."""


class PoolConfig(Settings):
    """How a site pools its own model and the joint model at the end."""

    share: Literal["evidence", "equal"] = "evidence"
    """evidence: the share follows from patients that neither model was trained on; equal: both weigh the same."""
    networks: Literal["two", "evidence"] = "two"
    """For two fine-tuned networks. two: both are kept; evidence: one network between them replaces them if at least 20
    validation patients find it no worse."""


class ModelSelectionConfig(Settings):
    """Use the pool unless the own model is better."""

    enabled: bool = True
    """Whether the site compares pool and own model on at least 20 validation patients."""
    standard_errors: float = Field(1.0, ge=0)
    """How much better the own model must be to be used, in standard errors of the difference."""


class DpConfig(Settings):
    """Differential privacy of each patient at each site, see docs/privacy.md.

    Private and exempt sites train the same small part of the network: the head, the adapter of `model.adapter`, and the
    last `dp.stages` of the backbone. Steps are plain SGD. Of `train` only
    `steps`, `exam_images`, `augment`, `lr_decay` and `ema` apply.
    """

    enabled: bool = False
    """Whether sites train with differential privacy."""
    required: bool = False
    """Whether exempt sites are excluded."""
    target_epsilon: float = Field(8.0, gt=0)
    """Bound of everything that a site has ever spent on its patients, including this run."""
    target_delta: float = Field(1e-5, gt=0, lt=1)
    """The delta at which epsilon is stated."""
    max_grad_norm: float = Field(1.5, gt=0)
    """Norm to which a patient's gradient is clipped. The gradient is the mean over her images; with `dp.stages` above 0
    that of one augmented image."""
    stages: int = Field(0, ge=0)
    """Number of last stages of the backbone that are trained too."""
    batch_patients: int = Field(0, ge=0)
    """Expected number of patients in a step; 0: all."""
    multiplicity: int = Field(2, ge=1)
    """Images of a patient in a step."""
    views: int = Field(0, ge=0)
    """Augmented views of each image, in addition to the unchanged one."""
    centre_steps: int = Field(4, ge=1)
    """Additional steps of a site's first round, which compute the centre of its features; with `model.levels` only."""
    lr: float = Field(0.2, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum."""

    @model_validator(mode="after")
    def _required_is_enabled(self) -> "DpConfig":
        if self.required and not self.enabled:
            raise ValueError("dp.required asks for what dp.enabled = false switches off: set dp.enabled = true")
        return self


class LimitsConfig(Settings):
    """How much of a run a site approves, in addition to `federation.rounds`."""

    runs: int = Field(1, ge=1, le=100)
    """How often the run may start from its first round; a resume after a crash is the same run."""
    evaluations: int = Field(1, ge=1, le=100)
    """How many final evaluations each start may ask for."""
    initial_weights_hash: str = Field("", pattern=r"^([0-9a-f]{64})?$", validation_alias=FORMERLY_THETA0)
    """SHA-256 of the initial weights; `cdtl server run` fills it in. Empty, as in simulations: nothing is counted."""


class RunConfig(Settings):
    """All settings that the sites of one federation agree on."""

    name: SiteName = "federation"
    """Name of the run, also of its folder."""
    method: Method = "cdtl"
    """The method of a deployed run; a simulation lists `methods`."""
    plugins: tuple[Annotated[str, Field(pattern=PACKAGE)], ...] = Field((), examples=[["my-package"]])
    """Packages whose code the bundle carries to the sites, for backbones, losses and others of your own in a run
    between hospitals. On one machine all installed packages are known."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of all random numbers but the noise of differential privacy."""
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

    @property
    def trains_only_heads(self) -> bool:
        """Whether the backbone is frozen, its features are cached, and only the head is trained."""
        levels, train = self.model.levels, self.train
        frozen = bool(levels) and max(levels) <= train.freeze
        return frozen and train.views > 0 and not self.dp.enabled and not self.model.adapter

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
    def _pooling_of_exams(self) -> "RunConfig":
        if self.task.unit == "image" and self.model.pooling != "mean":
            raise ValueError(
                f"model.pooling = '{self.model.pooling}' pools the images of an exam, and task.unit is image: set "
                "task.unit to exam or patient, or leave model.pooling out"
            )
        return self

    @model_validator(mode="after")
    def _nothing_own_with_privacy(self) -> "RunConfig":
        """Clipping bounds a patient's influence for the cross-entropy and for changes that treat images one by one."""
        loss, transforms = self.train.loss != "cross_entropy", self.train.augment.transforms
        if self.dp.enabled and (loss or transforms):
            key = "train.loss" if loss else "train.augment.transforms"
            raise ValueError(
                f"{key} of your own is not for differential privacy: remove it, or set dp.enabled to false"
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
