"""`compare.json`: what a comparison of methods found, as data, and when a gain may be claimed; see docs/compare.md."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cdtl_core.durable import replace_json
from cdtl_core.reporting.report import Estimate

__all__ = ["ArmResult", "Claim", "Comparison", "Point", "claim_of", "save_comparison"]

SCHEMA_VERSION = 1
Claim = Literal["gain", "no evidence of gain", "worse than alone"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmResult(_Part):
    """How one method, or control, did on the target's patients, each tested once per seed.

    Attributes:
        auroc: Of each image's probability, averaged over seeds.
        auroc_by_seed: Of each seed alone, in the order of the study's seeds.
        auroc_of_one: Mean over seeds of the AUROC of one seed's scores: what a site has with its patients, which trains
            once or, with several runs, averages them.
        metrics: Further figures of the averaged probabilities.
        minus: Paired differences of `auroc`, by what is subtracted: alone, and each control.
        minus_of_one: The same of `auroc_of_one`.
        theta0_control: The control that had to be beaten for a claim; null if none was played.
        claim: From `minus_of_one`; null for alone and for controls.
    """

    auroc: Estimate
    auroc_by_seed: tuple[float | None, ...]
    auroc_of_one: Estimate
    metrics: dict[str, float | None]
    minus: dict[str, Estimate]
    minus_of_one: dict[str, Estimate]
    theta0_control: str | None
    claim: Claim | None


class Point(_Part):
    """One target with one number of training patients."""

    target: str
    modality: str
    synthetic: bool
    patients: int | Literal["all"]
    training_patients: float
    tested_patients: int
    tested_images: int
    results: dict[str, ArmResult]


class Comparison(_Part):
    """A whole study."""

    schema_version: int = SCHEMA_VERSION
    cdtl_version: str
    name: str
    settings: dict[str, Any]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: int
    runs: int = 1
    targets: tuple[str, ...]
    points: tuple[Point, ...]


def claim_of(against_alone: Estimate, against_theta0: Estimate | None) -> Claim:
    """What may be said of a method at a target.

    Args:
        against_alone: Its paired difference to training alone, of one site.
        against_theta0: Its paired difference to the control whose donors are theta0; None: it was not played.
    """
    if against_alone.high is not None and against_alone.high < 0:
        return "worse than alone"
    if _is_above_zero(against_alone) and against_theta0 is not None and _is_above_zero(against_theta0):
        return "gain"
    return "no evidence of gain"


def save_comparison(path: Path, comparison: Comparison) -> None:
    """Write compare.json, atomically."""
    replace_json(path, comparison.model_dump(mode="json"))


def _is_above_zero(difference: Estimate) -> bool:
    return difference.low is not None and difference.low > 0
