"""The modality contract: what a site publishes of its cohort when it enrols, and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config import ModalityName, RunConfig
from cdtl_core.durable import replace_json
from cdtl_core.errors import DataError, FederationError
from cdtl_core.foreign import parse_json
from cdtl_core.imaging.pixels import INTAKE_VERSION

__all__ = ["ModalityContract", "PixelStatistics", "check_contract", "load_contract", "round_patients", "save_contract"]

SCHEMA_VERSION = 1


class PixelStatistics(BaseModel):
    """Mean and standard deviation of all training pixels, in [0, 255]; published only if the site allows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float = Field(ge=0, le=255)
    std: float = Field(ge=0, le=255)


class ModalityContract(BaseModel):
    """What the server groups sites by, and checks before a run.

    Attributes:
        site: Its name.
        modality: One of `cdtl_core.modality.MODALITIES`.
        labels: The task labels it predicts, in order.
        positive: The label whose probability is the score.
        label_map: Local label to task label; empty text: left out.
        channels: 1 gray or 3 colour.
        bit_depth: Most bits per sample among its files.
        patients: Number of patients, rounded to tens (0: fewer than five).
        statistics: Of pixels, or None.
        theta0_hash: The only common start the site accepts, or None for any.
        intake_version: How its images became tensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    site: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")
    modality: ModalityName
    labels: tuple[str, ...] = Field(min_length=2)
    positive: str
    label_map: Mapping[str, str] = {}
    channels: int = Field(ge=1, le=3)
    bit_depth: int = Field(ge=1, le=64)
    patients: int = Field(ge=0)
    statistics: PixelStatistics | None = None
    theta0_hash: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    intake_version: int = INTAKE_VERSION


def round_patients(count: int) -> int:
    """A count to the nearest ten: enough to plan with, too coarse to follow one patient."""
    return int((count + 5) // 10 * 10)


def check_contract(contract: ModalityContract, config: RunConfig, theta0_hash: str) -> None:
    """Refuse a site whose contract does not fit a run.

    A site may predict other labels than the task's (its head then stays local) as long as the positive one is among
    them.

    Raises:
        FederationError: A field does not fit; the sentence names it.
    """
    wrong = (
        _differs("intake_version", contract.intake_version, INTAKE_VERSION, "install the same cdtl version")
        or _differs("positive", contract.positive, config.task.positive, "agree on the positive label")
        or _absent("labels", contract.positive, contract.labels)
        or _unmapped(contract)
        or (
            _differs("theta0_hash", contract.theta0_hash, theta0_hash, "agree on the common start")
            if contract.theta0_hash
            else ""
        )
    )
    if wrong:
        raise FederationError(f"site {contract.site} cannot take part: {wrong}.")


def save_contract(path: Path, contract: ModalityContract) -> None:
    """Write a contract as JSON, atomically."""
    replace_json(path, contract.model_dump(mode="json"))


def load_contract(text: str, source: str) -> ModalityContract:
    """Read a contract's JSON; `source` names it in errors.

    Raises:
        DataError: It is no contract of this schema.
    """
    try:
        content = parse_json(text)
        contract = ModalityContract.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(
            f"the contract {source} is wrong in {field}: {first['msg']}; ask the site for it again."
        ) from None
    except ValueError:
        raise DataError(f"the contract {source} is no JSON: ask the site for it again.") from None
    if contract.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"the contract {source} has schema_version {contract.schema_version}: this cdtl reads {SCHEMA_VERSION}."
        )
    return contract


def _differs(field: str, got: object, wanted: object, advice: str) -> str:
    return "" if got == wanted else f"its contract says {field} = {got!r}, the run {wanted!r}: {advice}"


def _absent(field: str, value: str, among: Sequence[str]) -> str:
    return "" if value in among else f"its contract's {field} lack {value!r}: correct the site's labels"


def _unmapped(contract: ModalityContract) -> str:
    wrong = [target for target in contract.label_map.values() if target and target not in contract.labels]
    return f"its contract's label_map leads to {wrong[0]!r}, no label of the site: correct the map" if wrong else ""
