"""Settings of one hospital; none of them is sent."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cdtl_core.config.forms import DEVICE, PERSON, PUBLIC_KEY, SLICES
from cdtl_core.config.run import RunConfig
from cdtl_core.config.schema import FORMERLY_THETA0, Label, Sha256, SiteName
from cdtl_core.config.training import ModalityName, Settings, setting_keys

__all__ = ["ApprovalConfig", "BoxConfig", "ComputeConfig", "DataConfig", "Locks", "PhantomConfig", "SiteConfig"]
__all__ += ["SitePrivacy"]


_Count = Annotated[int, Field(ge=1, le=4096)]


class PhantomConfig(Settings):
    """Synthetic images in place of a hospital's own."""

    patients: int = Field(ge=8, examples=[160])
    """Number of synthetic patients."""
    seed: int = Field(0, ge=0)
    """Seed of the images; another seed gives other patients."""
    train: int | None = Field(None, ge=4, examples=[24])
    """Number of patients for training, and the same number for validation; all others are tested. A site can then have
    few training patients and still measure its model."""
    images: _Count | Annotated[tuple[_Count, ...], Field(min_length=2, max_length=2)] | None = Field(
        None, examples=[8, (2, 6)]
    )
    """Images of an exam: a number, or the fewest and the most. Each patient then has one exam, and the lesion is in one
    of its images. Without it each patient has one or two images, and all show the lesion."""
    series: bool = False
    """Each exam is an MRI volume, a folder of DICOM files with one slice each; `images` is the number of slices."""
    other_lesions: float = Field(0.0, ge=0, le=1)
    """Share of an exam's other images that show a benign-looking lesion, whatever the label."""

    @property
    def exam_images(self) -> tuple[int, int] | None:
        """Fewest and most images of an exam; None: no exams."""
        if self.images is None:
            return None
        return (self.images, self.images) if isinstance(self.images, int) else (self.images[0], self.images[1])

    @model_validator(mode="after")
    def _some_are_tested(self) -> "PhantomConfig":
        if self.train is not None and self.patients < 2 * self.train + 4:
            raise ValueError(f"train is {self.train} of {self.patients} patients: at least 4 must be left for the test")
        return self

    @model_validator(mode="after")
    def _exams(self) -> "PhantomConfig":
        if self.exam_images is not None and self.exam_images[0] > self.exam_images[1]:
            raise ValueError(f"images is {list(self.exam_images)}: give the fewest, then the most")
        if self.series and self.images is None:
            raise ValueError("series asks for volumes and images is not given: set images to the number of slices")
        if self.other_lesions and self.images is None:
            raise ValueError("other_lesions is a share of an exam's images and images is not given: set images")
        return self


class BoxConfig(Settings):
    """Where a lesion is in its image; training uses the square around it. Parts beyond the image's edge are black."""

    column: str = Field(min_length=1, examples=["bbox"])
    """Column of the manifest with x, y, width, height of the lesion in pixels; brackets are allowed."""
    scale: str | None = Field(None, examples=["scale"])
    """Column of the manifest with the factor from these pixels to the file's."""
    margin: float = Field(1.25, ge=1, le=10)
    """Side of the square, as a multiple of the longer side of the box."""
    least_px: int = Field(32, ge=1)
    """Smallest side of the square, in pixels of the file."""


class DataConfig(Settings):
    """Where a site's images are and how its labels are read."""

    root: Path = Path()
    """Folder of the images, relative to the configuration file."""
    frame: Literal["first", "middle", "last"] | Annotated[int, Field(ge=0)] = "middle"
    """The frame of a multi-frame image that is used, by place or by number from 0; with `task.unit` = image."""
    slices: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=SLICES)] = Field(
        "all", examples=["100:300:2", 32]
    )
    """The images of a file with several, such as the slices of a volume, if `task.unit` is not image: all, a number of
    evenly spaced ones, or a range from 0."""
    tile_um: float = Field(1.0, ge=0)
    """Micrometres per pixel of the tiles of a whole slide; 0: its finest level as it is."""
    strict: bool = False
    """Keep a decoded image only while the file's contents are unchanged; otherwise its size and time decide."""
    manifest: Path | None = Field(None, examples=["manifest.csv"])
    """Table of the images (file, label, patient_id, ...), relative to `data.root`."""
    phantom: PhantomConfig | None = None
    where: dict[str, str | tuple[str, ...]] = Field({}, examples=[{"device": ["GE Logiq 7*"], "tissue": ">=0.25"}])
    """Rows of the manifest to keep, by column: a value, a list of values (* for any text), or a bound."""
    label_map: dict[Label, Label] = Field({}, max_length=256, examples=[{"Maligno": "malignant", "normal": ""}])
    """The site's labels in the words of the federation; an empty word leaves that label's images out."""
    box: BoxConfig | None = None


class ChecksConfig(Settings):
    """Rules of the cohort check."""

    off: dict[str, Annotated[str, Field(min_length=3)]] = Field({}, examples=[{"duplicate": "two views of a lesion"}])
    """Rules that the site switches off, each with a reason; docs/checks.md lists the rules."""


class ComputeConfig(Settings):
    """How a site uses its GPU. On a CPU only `compile` has an effect."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 trains and scores networks in mixed precision; stored features are always computed in float32."""
    deterministic: bool = False
    """The same card and versions give the same bits in each run, more slowly."""
    compile: bool = False
    """Train whole backbones with torch.compile."""
    memory_share: float = Field(1.0, gt=0, le=1)
    """Largest share of a GPU's memory that one process uses, for sites that share a card."""


class PublishConfig(Settings):
    """What a site adds to its modality contract."""

    pixel_statistics: bool = False
    """Mean and spread of its pixels."""
    initial_weights_hash: Sha256 | None = Field(None, validation_alias=FORMERLY_THETA0, examples=["0" * 64])
    """SHA-256 of the only initial weights that the site accepts."""


class SitePrivacy(Settings):
    """A hospital's own privacy terms."""

    exempt: bool = False
    """Train without differential privacy in runs that do not require it."""
    accept_faulty_steps: bool = False
    """Continue although the ledger holds steps of earlier versions whose noise gives no bound; epsilon then counts the
    steps since."""
    target_epsilon: float | None = Field(None, gt=0, examples=[8.0])
    """Bound of the whole ledger, even if a run would allow more."""
    ledger: Literal["site", "run"] = "site"
    """site: one ledger counts all runs; run: each method counts for itself, in simulations only."""


class ApprovalConfig(Settings):
    """Who must approve a run at this site."""

    people: int = Field(1, ge=1, le=8)
    """How many different persons must approve a run."""
    keys: dict[Annotated[str, Field(pattern=PERSON)], Annotated[str, Field(pattern=PUBLIC_KEY)]] = Field(
        {}, examples=[{"Dr. Roe": "ssh-ed25519 " + "A" * 68}]
    )
    """Each person's public key, as `cdtl site approver` prints it. With keys an approval counts only if it is signed
    with one of them."""

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


def _known_keys(locks: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    for unknown in sorted(set(locks) - set(setting_keys(RunConfig))):
        raise ValueError(f"lock.{unknown} is not a setting of a run")
    return locks


Locks = Annotated[dict[str, bool | int | float | str], BeforeValidator(_flat), AfterValidator(_known_keys)]


class SiteConfig(Settings):
    """All settings of one hospital; none of them is sent."""

    site: SiteName = Field(examples=["north"])
    """Name of the site, different from all others of the federation."""
    modality: ModalityName = Field(examples=["ultrasound"])
    """Modality of its images; `cdtl config list modalities` names them."""
    device: str = Field("auto", pattern=DEVICE)
    """Where the site computes."""
    compute: ComputeConfig = ComputeConfig()
    labels: tuple[Label, ...] | None = Field(None, min_length=2, max_length=64, examples=[["benign", "malignant"]])
    """Labels that the site predicts, if they are not those of the task; its head is then shared only with
    sites of the same labels."""
    data: DataConfig = DataConfig()
    checks: ChecksConfig = ChecksConfig()
    publish: PublishConfig = PublishConfig()
    privacy: SitePrivacy = SitePrivacy()
    approval: ApprovalConfig = ApprovalConfig()
    room_mb: int = Field(512, ge=1)
    """Memory for replies that wait for the coordinator, in megabytes; without room nothing is trained."""
    lock: Locks = Field({}, examples=[{"dp.enabled": True, "dp.target_epsilon": 8.0}])
    """Settings of a run that this site fixes, for example privacy terms: a run with another value is refused, approved
    or not."""
    require_separation: bool = False
    """Run approved code only where it is kept from the site's key and from the network."""

    @model_validator(mode="after")
    def _one_source(self) -> "SiteConfig":
        if (self.data.manifest is None) == (self.data.phantom is None):
            raise ValueError("a site needs either data.manifest (its own images) or data.phantom (synthetic ones)")
        if self.data.phantom is not None and self.data.phantom.series and self.modality != "mri":
            raise ValueError(f"data.phantom.series gives MRI volumes and the modality is {self.modality}: leave it out")
        return self
