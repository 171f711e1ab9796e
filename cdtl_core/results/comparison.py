"""`compare.json`: the results of a comparison of methods as data, and its claims; see docs/compare.md."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cdtl_core.results.report import Estimate
from cdtl_core.system.durable import replace_json

__all__ = ["ArmResult", "Claim", "Comparison", "Difference", "Donors", "LeftOut", "Outcomes", "Point", "Row", "Size"]
__all__ += ["claim_of", "save_comparison"]

SCHEMA_VERSION = 2
LEVEL = 0.05
Claim = Literal["gain", "no evidence of gain", "worse than alone"]
Donors = Literal["other", "all"]
Size = int | Literal["all"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmResult(_Part):
    """Result of one method or control for a receiver's patients, each tested once per draw.

    Attributes:
        auroc: Mean over draws of each draw's AUROC.
        auroc_by_draw: In the order of the study's seeds.
        log_loss: Log-loss of the method's probabilities.
        calibration_error: Expected calibration error, ten bins.
        metrics: Further figures, means over draws.
        minus: Paired differences of `auroc` to alone, to FedBN and to the method's own control, if these were run.
        log_loss_minus_alone: Above 0 if the method is worse than alone.
        calibration_error_minus_alone: Likewise.
    """

    auroc: Estimate
    auroc_by_draw: tuple[float | None, ...]
    log_loss: Estimate
    calibration_error: Estimate
    metrics: dict[str, float | None]
    minus: dict[str, Estimate]
    log_loss_minus_alone: Estimate | None
    calibration_error_minus_alone: Estimate | None


class Point(_Part):
    """One receiver with one set of donors and one number of training patients."""

    target: str
    modality: str
    synthetic: bool
    donors: Donors
    donor_sites: tuple[str, ...]
    patients: Size
    training_patients: float
    tested_patients: int
    tested_images: int
    results: dict[str, ArmResult]


class Difference(_Part):
    """A mean difference over receivers, with its 95 % interval.

    Attributes:
        p: Two-sided, for this comparison only; null with too few patients.
        p_holm: Corrected by Holm over all comparisons of the study that support a claim.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None

    @property
    def is_gain(self) -> bool:
        """Whether it is significantly above 0, by its own interval and after Holm's correction."""
        return self.low is not None and self.low > 0 and self.p_holm is not None and self.p_holm < LEVEL

    @property
    def is_loss(self) -> bool:
        """Whether it is significantly below 0."""
        return self.high is not None and self.high < 0 and self.p_holm is not None and self.p_holm < LEVEL


class Row(_Part):
    """One method over all receivers, with one set of donors and one number of training patients.

    Attributes:
        receivers: Receivers with enough patients.
        auroc: Mean over receivers.
        gain: AUROC minus that of alone, mean over receivers.
        gains: The gain of each receiver.
        worst: The receiver with the lowest gain.
        less_fedbn: AUROC minus that of FedBN; null for alone and FedBN, or if FedBN was not run.
        less_control: AUROC minus that of the method's own control with shuffled labels; null if it was not run.
        claim: Null for alone, for controls and for methods that take nothing from other sites.
    """

    donors: Donors
    patients: Size
    method: str
    receivers: tuple[str, ...]
    auroc: float | None
    gain: Difference | None
    gains: dict[str, float | None]
    worst: str | None
    less_fedbn: Difference | None
    less_control: Difference | None
    claim: Claim | None


class LeftOut(_Part):
    """A receiver that is not possible at a size, or with a set of donors, and why."""

    target: str
    patients: Size
    donors: Donors | None
    why: str


class Outcomes(_Part):
    """The two outcomes of docs/protocol.md, if `cdtl` and `fedbn` were run.

    Attributes:
        patients: The smallest size, which the first outcome refers to.
        cdtl_less_fedbn: Mean over receivers and sets of donors, without correction.
        worst: Lowest gain of `cdtl` over alone of any receiver, size and set of donors.
        worst_at: Where it occurs.
    """

    patients: Size
    cdtl_less_fedbn: Difference
    worst: float
    worst_at: str


class Comparison(_Part):
    """A whole study."""

    schema_version: int = SCHEMA_VERSION
    cdtl_version: str
    name: str
    settings: dict[str, Any]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: int
    runs: int
    targets: tuple[str, ...]
    donors: tuple[Donors, ...]
    patients: tuple[Size, ...]
    compared: int
    rows: tuple[Row, ...]
    outcomes: Outcomes | None
    points: tuple[Point, ...]
    left_out: tuple[LeftOut, ...]


def claim_of(gain: Difference, less_control: Difference | None) -> Claim:
    """Return the claim for a method.

    Args:
        gain: Its difference to local training.
        less_control: Its difference to its own control with shuffled labels; None: it was not run.
    """
    if gain.is_loss:
        return "worse than alone"
    if gain.is_gain and less_control is not None and less_control.is_gain:
        return "gain"
    return "no evidence of gain"


def save_comparison(path: Path, comparison: Comparison) -> None:
    """Write compare.json, atomically."""
    replace_json(path, comparison.model_dump(mode="json"))
