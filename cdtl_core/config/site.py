"""Settings of one hospital; none of them is sent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from cdtl_core.config.run import RunConfig
from cdtl_core.config.schema import FORMERLY_THETA0, Label, Sha256, SiteName
from cdtl_core.config.training import ModalityName, Settings

__all__ = ["ApprovalConfig", "BoxConfig", "ComputeConfig", "DataConfig", "Locks", "PhantomConfig", "SiteConfig"]
__all__ += ["SitePrivacy"]


_PublicKey = Annotated[str, Field(pattern=r"^ssh-ed25519 [A-Za-z0-9+/]{68}$")]


class PhantomConfig(Settings):
    """Synthetic images in place of a hospital's own: the number of patients and the seed.

    With `train`, this number of patients is for training and the same number for validation; all others are tested. A
    site can then have few training patients and still measure its model.
    """

    patients: int = Field(ge=8)
    seed: int = Field(0, ge=0)
    train: int | None = Field(None, ge=4)

    @model_validator(mode="after")
    def _some_are_tested(self) -> "PhantomConfig":
        if self.train is not None and self.patients < 2 * self.train + 4:
            raise ValueError(f"train is {self.train} of {self.patients} patients: at least 4 must be left for the test")
        return self


class BoxConfig(Settings):
    """Where a lesion is in its image; training uses the square around it.

    `column` of the manifest holds ``x, y, width, height`` in pixels (brackets are allowed). `scale` names the column
    with the factor from these pixels to the file's. The side of the square is `margin` times the longer side of the
    box, and at least `least_px` pixels of the file. Parts beyond the edge of the image are black.
    """

    column: str = Field(min_length=1)
    scale: str | None = None
    margin: float = Field(1.25, ge=1, le=10)
    least_px: int = Field(32, ge=1)


class DataConfig(Settings):
    """Where a site's images are and how its labels are read.

    `manifest` is a CSV (file,label,patient_id,...) relative to `root`; `where` keeps rows by column (a value, a list of
    values, or ``">=0.25"``); `label_map` maps local labels to the task's, ``""`` leaves that label's images out.
    `frame` is the one taken of a multi-frame image, by place or number from 0. `box` cuts lesions out. Decoded images
    are kept while a file's size and time are unchanged, with `strict` while its contents are.
    """

    root: Path = Path()
    frame: Literal["first", "middle", "last"] | Annotated[int, Field(ge=0)] = "middle"
    strict: bool = False
    manifest: Path | None = None
    phantom: PhantomConfig | None = None
    where: dict[str, str | tuple[str, ...]] = Field({})
    label_map: dict[Label, Label] = Field({}, max_length=256)
    box: BoxConfig | None = None


class ChecksConfig(Settings):
    """Rules of the cohort check that a site switches off, each with a reason; docs/checks.md lists the rules."""

    off: dict[str, Annotated[str, Field(min_length=3)]] = Field({})


class ComputeConfig(Settings):
    """How a site uses its GPU. On a CPU only `compile` has an effect.

    `precision` ``bfloat16`` trains and scores networks in mixed precision; stored features are always computed in
    float32. With `deterministic`, the same card and versions give the same bits in each run, more slowly. `compile`
    trains whole backbones with torch.compile. `memory_share` limits the share of a GPU's memory that one process uses,
    for sites that share a card.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    deterministic: bool = False
    compile: bool = False
    memory_share: float = Field(1.0, gt=0, le=1)


class PublishConfig(Settings):
    """What a site adds to its modality contract: mean and spread of its pixels, and the initial weights it accepts."""

    pixel_statistics: bool = False
    initial_weights_hash: Sha256 | None = Field(None, validation_alias=FORMERLY_THETA0)


class SitePrivacy(Settings):
    """A hospital's own privacy terms.

    A site with `exempt` trains without differential privacy in runs that do not require it. `target_epsilon` bounds the
    whole ledger, even if a run would allow more. `ledger` is ``run`` only in simulations, where each method counts for
    itself; everywhere else one ledger counts all runs. With `accept_faulty_steps` the site continues although its
    ledger holds steps of earlier versions whose noise gives no bound; epsilon then counts the steps since.
    """

    exempt: bool = False
    accept_faulty_steps: bool = False
    target_epsilon: float | None = Field(None, gt=0)
    ledger: Literal["site", "run"] = "site"


class ApprovalConfig(Settings):
    """Who must approve a run at this site.

    A run needs the approvals of `people` different persons. `keys` names each person's public key, as
    ``cdtl site approver`` prints it; with keys an approval counts only if it is signed with one of them.
    """

    people: int = Field(1, ge=1, le=8)
    keys: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,47}$")], _PublicKey] = Field({})

    @model_validator(mode="after")
    def _enough_keys(self) -> "ApprovalConfig":
        if len(set(self.keys.values())) != len(self.keys):
            raise ValueError("approval.keys lists the same key for two persons: give each person a separate key")
        if self.people > max(1, len(self.keys)):
            raise ValueError(
                f"approval.people is {self.people} and approval.keys names {len(self.keys)}: create a key for each "
                "person with cdtl site approver and add it"
            )
        return self


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return ``{"train": {"lr": 1}}`` as ``{"train.lr": 1}``; lists as the JSON text that Flower carries."""
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
        raise ValueError(f"lock.{unknown} is not a setting of a run")
    return locks


Locks = Annotated[dict[str, bool | int | float | str], BeforeValidator(_flat), AfterValidator(_known_keys)]


class SiteConfig(Settings):
    """All settings of one hospital; none of them is sent.

    `device` is ``auto``, ``cpu``, ``mps``, ``cuda:0`` or a GPU's UUID as ``nvidia-smi -L`` prints it.
    `room_mb` is the memory in megabytes for replies that wait for the coordinator; without room nothing is trained.
    `lock` names run settings that this site fixes, for example privacy terms: a run with another value is refused,
    approved or not. With `require_separation` no approved code runs where nothing keeps it from the site's key and from
    the network.
    """

    site: SiteName
    modality: ModalityName
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?|GPU-[0-9A-Fa-f-]{36})$")
    compute: ComputeConfig = ComputeConfig()
    labels: tuple[Label, ...] | None = Field(None, min_length=2, max_length=64)
    data: DataConfig = DataConfig()
    checks: ChecksConfig = ChecksConfig()
    publish: PublishConfig = PublishConfig()
    privacy: SitePrivacy = SitePrivacy()
    approval: ApprovalConfig = ApprovalConfig()
    room_mb: int = Field(512, ge=1)
    lock: Locks = Field({})
    require_separation: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> "SiteConfig":
        if (self.data.manifest is None) == (self.data.phantom is None):
            raise ValueError("a site needs either data.manifest (its own images) or data.phantom (synthetic ones)")
        return self
