"""`report.json`: the results of a run for each site as data; docs/report.md explains every field."""

import math
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from cdtl_core.metrics.metrics import Interval
from cdtl_core.system.durable import replace_json

__all__ = ["Bytes", "Counts", "Estimate", "MethodResult", "ModelChoice", "Privacy", "Report", "SiteReport"]
__all__ += ["save_report"]

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A figure with its 95 % interval; null with too few patients."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> "Estimate":
        """Return the estimate with null for NaN."""
        value, low, high = (x if math.isfinite(x) else None for x in (interval.value, interval.low, interval.high))
        return cls(value=value, low=low, high=high)


class Counts(_Part):
    """Patients or images by split."""

    train: int
    val: int
    test: int


class MethodResult(_Part):
    """Result of one method's model on the site's test patients."""

    auroc: Estimate
    metrics: dict[str, float | None]


class ModelChoice(_Part):
    """The model that a site uses, and the pool of its own and the joint one.

    Attributes:
        chosen: ``pool``, ``own`` or ``joint``.
        share: r, the joint model's share relative to the own one (1: half and half); null without a pool.
        share_by: ``evidence`` or ``equal``.
        evidence_patients: Held-out patients behind the share; 0 for an equal one.
        networks: Number of networks in a prediction.
        networks_log_loss: Validation log-loss of ``one`` and of ``two`` networks, if they were compared.
        donor_shares: Other sites' modality to its share relative to the own model, by the same evidence; empty if it is
            not known. It is descriptive only.
        validation_log_loss: Of each candidate, not calibrated.
        test_auroc: Of each candidate.
        test_log_loss: Of each candidate, calibrated if the site could calibrate.
        test_ece: Of each candidate, likewise.
        log_loss_minus_own: Paired difference to the own model on test patients; below 0 is better.
    """

    chosen: str
    share: float | None
    share_by: str | None
    evidence_patients: int
    networks: int = 1
    networks_log_loss: dict[str, float] = {}
    donor_shares: dict[str, Estimate] = {}
    validation_log_loss: dict[str, float]
    test_auroc: dict[str, float | None]
    test_log_loss: dict[str, Estimate] = {}
    test_ece: dict[str, float | None] = {}
    log_loss_minus_own: dict[str, Estimate] = {}


class Bytes(_Part):
    """Mean bytes per round for this site, and the size of the initial weights, received once."""

    sent: int
    received: int
    initial_weights_received: int = Field(
        validation_alias=AliasChoices("initial_weights_received", "theta0_received")  # before 0.2
    )


class Privacy(_Part):
    """Privacy spent by one method for each training patient at a site; `spent_in_round`: budget used up before it.

    Epsilon at delta, over all its rounds: by Renyi DP, which budgets use, and by PRV, which is tighter.
    """

    target_epsilon: float
    target_delta: float
    epsilon_rdp: float
    epsilon_prv: float
    steps: int
    spent_in_round: int | None


class SiteReport(_Part):
    """Results of one site."""

    name: str
    modality: str
    synthetic: bool
    num_patients: int
    patients: Counts
    images: Counts
    results: dict[str, MethodResult]
    gain: dict[str, Estimate]
    log_loss_change: dict[str, Estimate] = {}
    selection: ModelChoice | None
    bytes_per_round: dict[str, Bytes]
    privacy: dict[str, Privacy] = {}


class Report(_Part):
    """Results of a whole run; `unit` is what has a label and a score."""

    schema_version: int = SCHEMA_VERSION
    cdtl_version: str
    name: str
    seed: int
    engine: str
    rounds: int
    methods: tuple[str, ...]
    unit: str = "image"
    blend: dict[str, Any]
    sites: tuple[SiteReport, ...]


def save_report(path: Path, report: Report) -> None:
    """Write report.json, atomically."""
    replace_json(path, report.model_dump(mode="json"))
