"""Every setting, once: what a federation agrees on, what a hospital owns, and what a simulation adds.

A setting is written the same way everywhere: ``train.lr`` in TOML, in ``--set`` and in Flower's run config.
`RunConfig` is what all sites of a federation share; `SiteConfig` belongs to one hospital; their keys are disjoint.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cdtl_core.durable import replace_bytes
from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.modality import modality_of

__all__ = [
    "BlendConfig",
    "DataConfig",
    "Method",
    "PhantomConfig",
    "RunConfig",
    "SimulationConfig",
    "SiteConfig",
    "TrainConfig",
    "flatten",
    "load_simulation",
    "load_site",
    "save_toml",
    "simulation_toml",
    "unflatten",
]

Method = Literal["alone", "fedavg", "cdtl"]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]
_Model = TypeVar("_Model", bound=BaseModel)
_Share = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """Rounds; how many sites must take part in each; how long to wait for them; how sites weigh in their modality.

    `patient_cap` is the most patients with which one site weighs (0: no cap).
    """

    rounds: int = Field(8, ge=1)
    min_sites: int = Field(1, ge=1)
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


class ShareConfig(_Settings):
    """Whether sites with the same label map share the classifier head."""

    head: bool = True


class GateConfig(_Settings):
    """The acceptance gate: a blended model is refused if worse by more than this many standard errors."""

    enabled: bool = True
    standard_errors: float = Field(1.0, ge=0)


class RunConfig(_Settings):
    """All that the sites of one federation agree on."""

    name: _Name = "federation"
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

    @model_validator(mode="after")
    def _rounds_left_to_blend(self) -> "RunConfig":
        if self.blend.warmup + self.blend.settle >= self.federation.rounds and self.method == "cdtl":
            raise ValueError(
                f"blend.warmup + blend.settle is {self.blend.warmup + self.blend.settle} of "
                f"{self.federation.rounds} rounds: leave at least one round that blends"
            )
        return self


class PhantomConfig(_Settings):
    """Synthetic images in place of a hospital's own: how many patients to render, from which seed."""

    patients: int = Field(ge=8)
    seed: int = Field(0, ge=0)


class DataConfig(_Settings):
    """Where a site's images are and how its labels are read.

    `manifest` is a CSV (file,label,patient_id,...) relative to `root`; `where` keeps rows by column (a value, a list of
    values, or ``">=0.25"``); `label_map` maps local labels to the task's, ``""`` leaves that label's images out.
    """

    root: Path = Path()
    manifest: Path | None = None
    phantom: PhantomConfig | None = None
    where: dict[str, str | tuple[str, ...]] = {}
    label_map: dict[str, str] = {}


class SiteConfig(_Settings):
    """All that belongs to one hospital; nothing of it is sent."""

    site: _Name
    modality: str
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    labels: tuple[str, ...] | None = None
    data: DataConfig = DataConfig()

    @field_validator("modality")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return modality_of(value).name
        except ConfigError as error:
            raise ValueError(str(error).rstrip(".")) from None

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


def load_simulation(path: Path, overrides: Iterable[str] = ()) -> SimulationConfig:
    """Read a simulation's TOML file; `overrides` are ``key=value`` with dots, values as in TOML or plain text.

    Top-level `[data]` is what all sites share (``data.root``); all other tables but `sites` are the run's.

    Raises:
        ConfigError: The file is missing or not TOML, or a setting is unknown or ill-typed.
    """
    tree = _read_toml(path)
    for override in overrides:
        _apply(tree, override)
    shared, sites = tree.pop("data", {}), tree.pop("sites", [])
    methods = tree.pop("methods", None)
    document: dict[str, Any] = {"run": tree, "sites": [_with_shared(site, shared) for site in sites]}
    if methods is not None:
        document["methods"] = methods.split(",") if isinstance(methods, str) else methods
    return _validated(SimulationConfig, document, str(path))


def simulation_toml(config: SimulationConfig) -> dict[str, Any]:
    """The same simulation as a TOML tree that `load_simulation` reads back to an equal value."""
    plain = config.model_dump(mode="json", exclude_none=True)
    return {**plain["run"], "methods": plain["methods"], "sites": plain["sites"]}


def save_toml(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a tree of settings as TOML, atomically."""
    replace_bytes(path, tomli_w.dumps(tree).encode())


def load_site(path: Path) -> SiteConfig:
    """Read a hospital's `site.toml`.

    Raises:
        ConfigError: The file is missing or not TOML, or a setting is unknown or ill-typed.
    """
    return _validated(SiteConfig, _read_toml(path), str(path))


def flatten(config: RunConfig) -> dict[str, bool | int | float | str]:
    """A run as the flat scalars that Flower carries: ``{"train.lr": 5e-4, ...}``; lists and tables as JSON text."""
    flat: dict[str, bool | int | float | str] = {}

    def walk(prefix: str, tree: Mapping[str, Any]) -> None:
        for key, value in tree.items():
            if isinstance(value, dict) and prefix + key not in _TABLES:
                walk(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = json.dumps(value) if isinstance(value, list | dict) else value

    walk("", config.model_dump(mode="json"))
    return flat


def unflatten(flat: Mapping[str, Any]) -> RunConfig:
    """The run of Flower's flat scalars.

    Raises:
        ConfigError: A key is unknown or a value ill-typed.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = json.loads(value) if key in _TABLES | _LISTS and isinstance(value, str) else value
    return _validated(RunConfig, tree, "the run's settings")


_TABLES = {"blend.donors"}
_LISTS = {"task.labels"}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"the configuration {path} does not exist: give the path of a .toml file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read ({error}): mend the file.") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"'--set {override}' is no setting: write key=value, for example --set train.lr=0.001.")
    *path, last = key.strip().split(".")
    node: Any = tree
    for part in path:
        node = _step(node, part, key)
    if not isinstance(node, dict):
        raise ConfigError(f"'--set {override}' names no setting: '{'.'.join(path)}' has no keys below it.")
    node[last] = _value(text)


def _step(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        found = [item for item in node if isinstance(item, dict) and item.get("site") == part]
        if not found:
            raise ConfigError(f"'--set {key}' names no site '{part}': use a name from the configuration's [[sites]].")
        return found[0]
    return node.setdefault(part, {}) if isinstance(node, dict) else None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _with_shared(site: Any, shared: Mapping[str, Any]) -> Any:
    if not isinstance(site, dict):
        return site
    return {**site, "data": {**shared, **site.get("data", {})}}


def _validated(kind: type[_Model], document: Mapping[str, Any], source: str) -> _Model:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _sentence(error, source) from None


def _sentence(error: ValidationError, source: str) -> CdtlError:
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"] if part != "run") or "the configuration"
    got = "" if first["type"] in {"missing", "value_error"} else f", got {first['input']!r}"
    what = "is unknown" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    rest = f" ({more} more like it)" if more else ""
    return ConfigError(f"{key} in {source}: {what}{got}{rest}; correct the setting.")
