"""Type, pattern and range of every field that crosses between coordinator and site.

Each field of a message, request, enrolment, contract or approval is checked here before it is used. No text that
crosses can be a path or hold a character that a screen does not show.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from cdtl_core.config.forms import HASH, LABEL_HASH, LEDGER_ID, NAME, SETTING_NAME, VERSION, faults_of
from cdtl_core.errors import FederationError, PrivacyError
from cdtl_core.system.foreign import is_plain, visible

__all__ = [
    "FLAT",
    "FORMERLY_THETA0",
    "MAX_LOSS",
    "MAX_PATIENTS",
    "MAX_ROUNDS",
    "Crossing",
    "FinalNumbers",
    "Flat",
    "Hello",
    "KeptNumbers",
]
__all__ += [
    "Label",
    "LabelHash",
    "LedgerId",
    "Line",
    "Order",
    "Patients",
    "PrivateNumbers",
    "Question",
    "Sha256",
    "SiteName",
]
__all__ += ["Patients", "UpdateNumbers", "Version", "bounded", "first_fault", "inside", "parsed"]

MAX_ROUNDS = 9999  # four digits in the names of files, which are sorted by name
MAX_LOSS = 1e4  # of a model that knows nothing it is log(number of labels); larger ones mean no more than this
MAX_PATIENTS = 10_000_000
MAX_RESERVATIONS = 1_000_000

Sha256 = Annotated[str, StringConstraints(strict=True, pattern=HASH)]
SiteName = Annotated[str, StringConstraints(pattern=NAME)]
LabelHash = Annotated[str, StringConstraints(strict=True, pattern=LABEL_HASH)]
LedgerId = Annotated[str, StringConstraints(strict=True, pattern=LEDGER_ID)]
Version = Annotated[str, StringConstraints(strict=True, pattern=VERSION)]
_Key = Annotated[str, StringConstraints(pattern=SETTING_NAME)]


def _plain(value: str) -> str:
    if not is_plain(value):
        raise ValueError("it holds a character that a screen does not show, for example a line break or an escape")
    return value


Line = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_plain)]
"""Free text on one line, with printable characters only."""
Label = Annotated[str, StringConstraints(max_length=64), AfterValidator(_plain)]
Flat = Mapping[_Key, StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, AfterValidator(_plain)]]
"""All settings of a run as Flower carries them."""
FLAT: TypeAdapter[Flat] = TypeAdapter(Flat)

FORMERLY_THETA0 = AliasChoices("initial_weights_hash", "theta0_hash")
"""Files written before 0.2 name the hash of the initial weights ``theta0_hash``; read until 0.3."""

_Round = Annotated[int, Field(ge=1, le=MAX_ROUNDS + 1)]  # the end counts as one more round
_Loss = Annotated[float, Field(ge=0, le=MAX_LOSS)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Unknown = math.nan


class Crossing(BaseModel):
    """Base of all records of a message: closed, strictly typed, finite. `kind` names the record in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    kind: ClassVar[str] = "a message"


class Question(Crossing):
    """The coordinator's question to a site: who are you? Carries the hash of the run's initial weights."""

    kind = "a question"
    initial_weights_hash: Sha256


class Order(Crossing):
    """What the coordinator asks for in a round, in addition to the weights."""

    kind = "an order"
    round: _Round
    share_head: bool
    initial_weights_hash: Sha256


class Patients(Crossing):
    """Number of patients behind a sum."""

    kind = "a sum of heads"
    count: int = Field(ge=0, le=MAX_PATIENTS * MAX_ROUNDS)


class Hello(Crossing):
    """A site's introduction.

    `ledger` and `reservations` are sent only by sites with differential privacy.
    """

    kind = "an introduction"
    site: SiteName
    modality: SiteName
    label_hash: LabelHash
    contract: str = Field(max_length=4096)
    num_patients: int = Field(ge=1, le=MAX_PATIENTS)
    holds_initial_weights: bool
    ledger: LedgerId = ""
    reservations: int = Field(0, ge=0, le=MAX_RESERVATIONS)


class UpdateNumbers(Crossing):
    """Figures of a round. A site leaves out what it cannot compute, for example an AUROC of a single class."""

    kind = "an update"
    round: _Round
    val_loss: _Loss = _Unknown
    val_auroc: _Share = _Unknown
    train_loss: _Loss = _Unknown


class PrivateNumbers(Crossing):
    """Figures of a round with differential privacy."""

    kind = "an update"
    round: _Round
    spent: int = Field(ge=0, le=1)


class FinalNumbers(Crossing):
    """Figures of a site's last answer; `chosen` is the index of the model that the site uses among the candidates."""

    kind = "a last answer"
    test_auroc: _Share = _Unknown
    test_auroc_low: _Share = _Unknown
    test_auroc_high: _Share = _Unknown
    chosen: int = Field(ge=0, le=2)


class KeptNumbers(Crossing):
    """Last answer of a site with differential privacy: it has its model and sends no figures."""

    kind = "a last answer"
    kept: Literal[1]


_Kind = TypeVar("_Kind", bound=Crossing)


def parsed(kind: type[_Kind], record: Mapping[str, Any]) -> _Kind:
    """Check the record of a message field by field and return it.

    Raises:
        FederationError: A field is missing, unknown, of another type, or out of its range or pattern.
    """
    try:
        return kind.model_validate(dict(record))
    except ValidationError as error:
        raise FederationError(
            f"{kind.kind} is wrong in {first_fault(error)}: use the same cdtl version at server and site."
        ) from None


def first_fault(error: ValidationError) -> str:
    """Name the first invalid field and the reason, for an error message; the value itself is not repeated."""
    first = faults_of(error)[0]
    field = visible(".".join(str(part)[:48] for part in first.place) or "the whole")
    return f"{field} ({visible(first.reason)})"


def bounded(kind: type[Crossing], values: Mapping[str, float]) -> dict[str, float]:
    """Limit figures to what may be sent: drop non-finite ones, clip the others to their range."""
    fields = kind.model_json_schema()["properties"]
    return {
        name: min(max(float(value), fields[name]["minimum"]), fields[name]["maximum"])
        for name, value in values.items()
        if not math.isnan(value)
    }


def inside(folder: Path, *names: str) -> Path:
    """Return a path below `folder`, after a check that each part is a plain name.

    Raises:
        PrivacyError: A name would lead out of the folder.
    """
    for name in names:
        if not _PART.fullmatch(name):
            raise PrivacyError(f"{name!r} is not a valid file or folder name below {folder.name}: nothing was changed.")
    return folder.joinpath(*names)


_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
