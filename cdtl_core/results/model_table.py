"""`table.json`: a table of models over one site's images, as data; see docs/paper.md."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cdtl_core.results.report import Estimate
from cdtl_core.system.durable import replace_json

__all__ = ["ModelTable", "RowResult", "SplitResult", "save_table"]

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitResult(_Part):
    """Result of a row over all repeats of one kind of split.

    Attributes:
        repeats: Number of random splits.
        folds: Test sets of each repeat; 1 in a leaky split.
        tested_images: Per repeat.
        tested_patients: Over all repeats.
        training_images: Mean over cells.
        leaked: Share of test images with another image of the same patient in training; mean over cells.
        majority_rate: Accuracy of always predicting the more frequent label.
        figures: Mean over repeats of accuracy, sensitivity, specificity, precision, f1 at threshold 0.5 and auroc, each
            with its interval over patients.
        auroc_by_repeat: AUROC of each repeat's out-of-fold probabilities.
        auroc_of_mean: AUROC of the probabilities averaged over repeats, an ensemble; null for one repeat or leaky.
        seconds: Of all cells.
    """

    repeats: int
    folds: int
    tested_images: int
    tested_patients: int
    training_images: float
    leaked: float
    majority_rate: float
    figures: dict[str, Estimate]
    auroc_by_repeat: tuple[float | None, ...]
    auroc_of_mean: Estimate | None
    seconds: float


class RowResult(_Part):
    """One row; `macs` are for one image."""

    row: str
    method: str
    backbone: str
    weights: str
    steps: int
    batch_size: int
    parameters: int
    macs: int
    leaky: SplitResult | None
    grouped: SplitResult | None


class ModelTable(_Part):
    """A whole table."""

    schema_version: int = SCHEMA_VERSION
    cdtl_version: str
    name: str
    target: str
    synthetic: bool
    settings: dict[str, Any]
    rows: tuple[RowResult, ...]


def save_table(path: Path, table: ModelTable) -> None:
    """Write table.json, atomically."""
    replace_json(path, table.model_dump(mode="json"))
