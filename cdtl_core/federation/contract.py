"""The modality contract: the facts that a site publishes about its cohort when it enrols.

Sites share a head only if their labels have the same meaning. Therefore the tensors of a head carry a hash of the
ordered labels.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config import ModalityName, RunConfig, Unit
from cdtl_core.config.folders import SiteFolder
from cdtl_core.config.schema import FORMERLY_THETA0, MAX_PATIENTS, Label, Sha256, SiteName, first_fault
from cdtl_core.data.decode import INTAKE_VERSION
from cdtl_core.errors import DataError, FederationError
from cdtl_core.system.foreign import parse_json

__all__ = ["ModalityContract", "PixelStatistics", "check_contract", "enrolled_contract"]
__all__ += ["head_name", "label_hash", "load_contract", "most_patients", "own_name", "round_patients"]
__all__ += ["wire_name"]

SCHEMA_VERSION = 1
_ROUNDED = 4
_OF_HEAD = ("head.", "pooling.")  # as in models.model, which would load torch


class PixelStatistics(BaseModel):
    """Mean and standard deviation of all training pixels, in [0, 255]; published only if the site allows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float = Field(ge=0, le=255)
    std: float = Field(ge=0, le=255)


class ModalityContract(BaseModel):
    """The facts by which the server groups sites, and which it checks before a run.

    Attributes:
        site: Its name.
        modality: One of `cdtl_core.config.modalities.MODALITIES`.
        labels: The task labels it predicts, in order.
        positive: The label whose probability is the score.
        label_map: Local label to task label; empty text: left out.
        channels: 1 gray or 3 colour.
        bit_depth: Most bits per sample among its files.
        patients: Number of patients, rounded to tens (0: fewer than five).
        statistics: Pixel statistics, or None.
        initial_weights_hash: The only initial weights the site accepts, or None for any.
        intake_version: Version of the image decoding.
        unit: What has a label at the site, as in `task.unit`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    site: SiteName
    modality: ModalityName
    labels: tuple[Label, ...] = Field(min_length=2, max_length=64)
    positive: Label
    label_map: Mapping[Label, Label] = Field({}, max_length=256)
    channels: int = Field(ge=1, le=3)
    bit_depth: int = Field(ge=1, le=64)
    patients: int = Field(ge=0, le=MAX_PATIENTS)
    statistics: PixelStatistics | None = None
    initial_weights_hash: Sha256 | None = Field(None, validation_alias=FORMERLY_THETA0)
    intake_version: int = Field(INTAKE_VERSION, ge=0, le=9999)
    unit: Unit = "image"


def label_hash(labels: Sequence[str]) -> str:
    """Return eight hex digits that identify an ordered set of labels."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()[:8]


def head_name(name: str, labels: Sequence[str]) -> str:
    """Return a tensor's name in messages: of the head's, ``head.weight`` becomes ``head.<label hash>.weight``.

    Attention over the images of an exam belongs to the head: ``pooling.score.weight`` becomes
    ``head.<label hash>.pooling.score.weight``.
    """
    return wire_name(name, label_hash(labels))


def wire_name(name: str, head_of: str) -> str:
    """Return `head_name` for the labels with this hash."""
    return f"head.{head_of}.{name.removeprefix('head.')}" if name.startswith(_OF_HEAD) else name


def own_name(wire: str) -> str:
    """Return the name at a site of a head's tensor in messages, the inverse of `head_name`."""
    own = wire.split(".", 2)[2]
    return own if own.startswith(_OF_HEAD) else f"head.{own}"


def round_patients(count: int) -> int:
    """Round a count to the nearest ten: precise enough for plans, too coarse to reveal one patient."""
    return int((count + 5) // 10 * 10)


def most_patients(contract: ModalityContract) -> int:
    """Return the largest number of patients for a contract, whose number is rounded to tens."""
    return contract.patients + _ROUNDED


def enrolled_contract(home: Path) -> ModalityContract | None:
    """Return the contract of a site's enrolment; None if it never enrolled, as in a simulation.

    Raises:
        DataError: ``enrolment.json`` is damaged.
    """
    path = SiteFolder(home).enrolment
    if not path.exists():
        return None
    try:
        return load_contract(json.dumps(parse_json(path.read_text(encoding="utf-8"))["contract"]), f"in {path}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}): run cdtl site init again.") from None


def check_contract(contract: ModalityContract, config: RunConfig, initial_weights_hash: str) -> None:
    """Refuse a site whose contract does not fit a run.

    A site may predict other labels than the task's if the positive one is among them; its head then stays local.

    Args:
        contract: The site's contract.
        config: The run.
        initial_weights_hash: SHA-256 of the run's initial weights.

    Raises:
        FederationError: A field does not fit; the sentence names it.
    """
    wrong = (
        _differs("intake_version", contract.intake_version, INTAKE_VERSION, "install the same cdtl version")
        or _differs("positive", contract.positive, config.task.positive, "agree on the positive label")
        or _differs(
            "unit", contract.unit, config.task.unit, f"enrol again with cdtl site init --unit {config.task.unit}"
        )
        or _absent("labels", contract.positive, contract.labels)
        or _unmapped(contract)
        or (
            _differs(
                "initial_weights_hash",
                contract.initial_weights_hash,
                initial_weights_hash,
                "agree on the initial weights",
            )
            if contract.initial_weights_hash
            else ""
        )
    )
    if wrong:
        raise FederationError(f"site {contract.site} cannot take part: {wrong}.")


def load_contract(text: str, source: str) -> ModalityContract:
    """Read a contract's JSON; `source` names it in errors.

    Raises:
        DataError: It is no contract of this schema.
    """
    try:
        content = parse_json(text)
        contract = ModalityContract.model_validate(content)
    except ValidationError as error:
        raise DataError(f"the contract {source} is wrong in {first_fault(error)}: ask the site for it again.") from None
    except ValueError:
        raise DataError(f"the contract {source} is not JSON: ask the site for it again.") from None
    if contract.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"the contract {source} has schema_version {contract.schema_version}: this cdtl reads {SCHEMA_VERSION}."
        )
    return contract


def _differs(field: str, got: object, wanted: object, advice: str) -> str:
    return "" if got == wanted else f"its contract says {field} = {got!r}, but the run has {wanted!r}: {advice}"


def _absent(field: str, value: str, among: Sequence[str]) -> str:
    return "" if value in among else f"its contract's {field} lack {value!r}: correct the site's labels"


def _unmapped(contract: ModalityContract) -> str:
    wrong = [target for target in contract.label_map.values() if target and target not in contract.labels]
    return (
        f"its contract's label_map maps to {wrong[0]!r}, which is not a label of the site: correct the map"
        if wrong
        else ""
    )
