"""The scores that a method left at a site, read back: ``scores.csv`` (test) and ``validation.csv``."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.errors import CheckpointError
from cdtl_core.foreign import parse_json
from cdtl_core.learning.metrics import auroc_interval, paired_difference
from cdtl_core.learning.summary import summarise
from cdtl_core.reporting.report import Estimate, MethodResult

__all__ = ["CALIBRATED", "TEST_FILE", "VALIDATION_FILE", "Scores", "gains", "method_result", "read_scores"]
__all__ += ["with_own_model"]

TEST_FILE, VALIDATION_FILE = "scores.csv", "validation.csv"
CALIBRATED = "p_calibrated"
_NOTE = "model.json"


@dataclass(frozen=True)
class Scores:
    """Probabilities of the positive label for one fold's images N.

    Attributes:
        images: File names.
        positive: Truth.
        patients: Number of each image's patient.
        columns: ``p_<candidate>``, and ``p_calibrated`` of the chosen one where it could be calibrated.
        chosen: The candidate that the site uses.
    """

    images: tuple[str, ...]
    positive: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[np.float64]]
    chosen: str

    @property
    def used(self) -> npt.NDArray[np.float64]:
        """Raw probabilities of the model the site uses; they rank images as the calibrated ones do."""
        return self.columns[f"p_{self.chosen}"]

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """What `cdtl predict` says: calibrated where that was possible."""
        return self.columns.get(CALIBRATED, self.used)

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature was fitted."""
        return CALIBRATED in self.columns

    @property
    def num_patients(self) -> int:
        """Distinct patients."""
        return len(np.unique(self.patients))


def read_scores(folder: Path, name: str = TEST_FILE) -> Scores | None:
    """The scores in a model folder; None if it holds none, as folders of earlier versions lack `validation.csv`.

    Raises:
        CheckpointError: A file is damaged.
    """
    if not (folder / name).exists() or not (folder / _NOTE).exists():
        return None
    try:
        chosen = parse_json((folder / _NOTE).read_text(encoding="utf-8"))["chosen"]
        with open(folder / name, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = [column for column in rows[0] if column.startswith("p_")]
        return Scores(
            images=tuple(row["image"] for row in rows),
            positive=np.array([row["positive"] == "1" for row in rows]),
            patients=np.array([int(row["patient"]) for row in rows]),
            columns={column: np.array([float(row[column]) for row in rows]) for column in columns},
            chosen=chosen,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise CheckpointError(
            f"{folder / name} cannot be read ({type(error).__name__}): restore it, or finish the run anew."
        ) from None


def method_result(scores: Scores, seed: int) -> MethodResult:
    """How the model that a method left does on the test patients."""
    return MethodResult(
        auroc=Estimate.of(auroc_interval(scores.positive, scores.used, scores.patients, seed=seed)),
        metrics={name: _number(value) for name, value in summarise(scores.positive, scores.probability).items()},
    )


def gains(found: Mapping[str, Scores], seed: int) -> dict[str, Estimate]:
    """``<method>-alone``: paired difference of AUROC on the same test patients; none without an own model."""
    found = with_own_model(found)
    if "alone" not in found:
        return {}
    alone = found["alone"].used
    return {
        f"{method}-alone": Estimate.of(
            paired_difference(scores.positive, scores.used, alone, scores.patients, seed=seed)
        )
        for method, scores in found.items()
        if method != "alone"
    }


def with_own_model(found: Mapping[str, Scores]) -> dict[str, Scores]:
    """By method, with `alone`: where it was not a method of the run, the site's own model of another one."""
    other = next((one for one in found.values() if "p_own" in one.columns), None)
    if "alone" in found or other is None:
        return dict(found)
    own = Scores(other.images, other.positive, other.patients, {"p_own": other.columns["p_own"]}, "own")
    return {"alone": own, **found}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
