"""Every setting, once: what a federation agrees on, what a hospital owns, and what a simulation adds.

A setting is written the same way everywhere: ``train.lr`` in TOML, in ``--set`` and in Flower's run config.
`RunConfig` is what all sites of a federation share; `SiteConfig` belongs to one hospital; their keys are disjoint.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cdtl_core.errors import ConfigError
from cdtl_core.modality import modality_of

__all__ = [
    "BlendConfig",
    "DataConfig",
    "Locks",
    "Method",
    "ModalityName",
    "ModelConfig",
    "PhantomConfig",
    "RunConfig",
    "SimulationConfig",
    "SiteConfig",
    "SiteName",
    "TrainConfig",
]

Method = Literal["alone", "fedavg", "cdtl"]
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]
_Share = Annotated[float, Field(ge=0, le=1)]


def _known_modality(value: str) -> str:
    try:
        return modality_of(value).name
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from None


ModalityName = Annotated[str, AfterValidator(_known_modality)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskConfig(_Settings):
    """What is predicted. `positive` is the label whose probability is the score."""

    labels: tuple[str, ...] = Field(("benign", "malignant"), min_length=2)
    positive: str = "malignant"

    @model_validator(mode="after")
    def _positive_is_a_label(self) -> "TaskConfig":
        if self.positive not in self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"positive label '{self.positive}' must be one of the distinct labels {self.labels}")
        return self


class ImageConfig(_Settings):
    """How an image becomes a tensor; sizes in pixels."""

    size: int = Field(128, ge=32, le=1024)


class ModelConfig(_Settings):
    """Backbone name, where its first weights come from (`imagenet`, `random` or a .safetensors file), dropout."""

    backbone: str = "efficientnet_lite0"
    weights: str = "imagenet"
    dropout: float = Field(0.2, ge=0, lt=1)


class AugmentConfig(_Settings):
    """Random changes of training images: chance of a flip, and the widest change of each kind."""

    flip: _Share = 0.5
    rotate_deg: float = Field(10.0, ge=0, le=180)
    translate: _Share = 0.06
    scale: float = Field(0.1, ge=0, lt=1)
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.15, ge=0, lt=1)
    noise: float = Field(0.01, ge=0, lt=1)


class TrainConfig(_Settings):
    """Local training in one round; `steps` is the same at every site, `freeze` counts early stages kept at theta0."""

    steps: int = Field(12, ge=0)
    batch_size: int = Field(24, ge=2)
    lr: float = Field(5e-4, gt=0)
    lr_decay: float = Field(0.1, ge=0)
    head_lr_factor: float = Field(4.0, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    class_weighted: bool = True
    ema: float = Field(0.0, ge=0, lt=1)
    freeze: int = Field(0, ge=0)
    refresh_norms: bool = True
    augment: AugmentConfig = AugmentConfig()


class SplitConfig(_Settings):
    """Shares of patients kept for test and validation."""

    test: float = Field(0.25, gt=0, lt=1)
    val: float = Field(0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_left(self) -> "SplitConfig":
        if self.test + self.val >= 0.9:
            raise ValueError(f"split.test + split.val is {self.test + self.val:.2f}: leave at least 0.1 to train on")
        return self


class FederationConfig(_Settings):
    """Rounds; who takes part; how many sites each round needs; how long to wait; how sites weigh in their modality.

    `sites` names who may take part (none named: whoever is connected, for simulations). The run starts when all of
    them have introduced themselves or `join_timeout_s` has passed; then, and in each round within `round_timeout_s`,
    at least `min_sites` sites and `min_per_modality` of each modality must answer. `patient_cap` is the most patients
    with which one site weighs (0: no cap).
    """

    rounds: int = Field(8, ge=1)
    sites: tuple[SiteName, ...] = ()
    min_sites: int = Field(1, ge=1)
    min_per_modality: int = Field(0, ge=0)
    join_timeout_s: float = Field(86400.0, gt=0)
    round_timeout_s: float = Field(3600.0, gt=0)
    patient_cap: int = Field(0, ge=0)


class BlendConfig(_Settings):
    """How modalities blend, see `cdtl_core.federation.blend`.

    `warmup` and `settle` rounds at the start and the end run without blending. `donors` names, per receiving
    modality, those it takes from; a modality that is not named takes from all, one with an empty list from none.
    """

    policy: Literal["fixed", "retention", "annealed", "size"] = "annealed"
    alpha: _Share = 0.9
    warmup: int = Field(0, ge=0)
    settle: int = Field(2, ge=0)
    depth: Literal["none", "share_early", "share_late"] = "none"
    half_patients: float = Field(50.0, gt=0)
    retention_min: _Share = 0.2
    retention_max: _Share = 0.95
    donors: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _bounds(self) -> "BlendConfig":
        if self.retention_min > self.retention_max:
            raise ValueError(f"retention_min {self.retention_min} is above retention_max {self.retention_max}")
        return self


class ShareConfig(_Settings):
    """Whether sites with the same label map share the classifier head."""

    head: bool = True


class GateConfig(_Settings):
    """The acceptance gate: a blended model is refused if worse by more than this many standard errors."""

    enabled: bool = True
    standard_errors: float = Field(1.0, ge=0)


class RunConfig(_Settings):
    """All that the sites of one federation agree on."""

    name: SiteName = "federation"
    method: Method = "cdtl"
    seed: int = Field(0, ge=0, lt=2**31)
    task: TaskConfig = TaskConfig()
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    split: SplitConfig = SplitConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()
    blend: BlendConfig = BlendConfig()
    share: ShareConfig = ShareConfig()
    gate: GateConfig = GateConfig()


class PhantomConfig(_Settings):
    """Synthetic images in place of a hospital's own: how many patients to render, from which seed."""

    patients: int = Field(ge=8)
    seed: int = Field(0, ge=0)


class DataConfig(_Settings):
    """Where a site's images are and how its labels are read.

    `manifest` is a CSV (file,label,patient_id,...) relative to `root`; `where` keeps rows by column (a value, a list of
    values, or ``">=0.25"``); `label_map` maps local labels to the task's, ``""`` leaves that label's images out.
    `frame` is the one taken of a multi-frame image, by place or number from 0. Decoded images are kept while a
    file's size and time are unchanged, with `strict` while its contents are.
    """

    root: Path = Path()
    frame: Literal["first", "middle", "last"] | Annotated[int, Field(ge=0)] = "middle"
    strict: bool = False
    manifest: Path | None = None
    phantom: PhantomConfig | None = None
    where: dict[str, str | tuple[str, ...]] = {}
    label_map: dict[str, str] = {}


class ChecksConfig(_Settings):
    """Rules of the cohort check that a site switches off, each with its reason; docs/checks.md lists them."""

    off: dict[str, Annotated[str, Field(min_length=3)]] = {}


class PublishConfig(_Settings):
    """What a site adds to its modality contract: its pixels' mean and spread, and the only common start it accepts."""

    pixel_statistics: bool = False
    theta0_hash: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """``{"train": {"lr": 1}}`` as ``{"train.lr": 1}``; lists as the JSON text that Flower carries."""
    flat: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name != "blend.donors":
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = json.dumps(value) if isinstance(value, list | tuple | dict) else value
    return flat


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _keys(nested, f"{prefix}{name}.")
        else:
            yield prefix + name


def _known_keys(locks: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    for unknown in sorted(set(locks) - set(_keys(RunConfig))):
        raise ValueError(f"lock.{unknown} is no setting of a run")
    return locks


Locks = Annotated[dict[str, bool | int | float | str], BeforeValidator(_flat), AfterValidator(_known_keys)]


class SiteConfig(_Settings):
    """All that belongs to one hospital; nothing of it is sent.

    `lock` names run settings that this site fixes, for example privacy terms: a run that says otherwise is refused,
    approved or not.
    """

    site: SiteName
    modality: ModalityName
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    labels: tuple[str, ...] | None = Field(None, min_length=2)
    data: DataConfig = DataConfig()
    checks: ChecksConfig = ChecksConfig()
    publish: PublishConfig = PublishConfig()
    lock: Locks = {}

    @model_validator(mode="after")
    def _one_source(self) -> "SiteConfig":
        if (self.data.manifest is None) == (self.data.phantom is None):
            raise ValueError("a site needs either data.manifest (its own images) or data.phantom (synthetic ones)")
        return self


class SimulationConfig(_Settings):
    """Whole federations on one machine: the agreed run, the sites, and the methods to compare over them."""

    run: RunConfig = RunConfig()
    methods: tuple[Method, ...] = Field(("alone", "fedavg", "cdtl"), min_length=1)
    sites: tuple[SiteConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "SimulationConfig":
        names = [site.site for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError(f"site names must be distinct, got {', '.join(names)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods must be distinct, got {', '.join(self.methods)}")
        return self

    def of_method(self, method: Method) -> RunConfig:
        """The agreed run with one method in force."""
        return self.run.model_copy(update={"method": method})
