"""Predictions of a run's models for a site's test and validation images: ``scores.csv``, ``validation.csv``, figures.

A file has one row per image: its file name, its patient's number, its truth, and the probability of the positive label
by each candidate, raw and, if the site could calibrate, calibrated. The files stay at the site.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cdtl_core.config.folders import NOTE_FILE
from cdtl_core.data.split import Split
from cdtl_core.errors import CheckpointError
from cdtl_core.metrics.bands import mean_interval
from cdtl_core.metrics.calibration import rescale
from cdtl_core.metrics.metrics import auroc_interval, paired_difference
from cdtl_core.metrics.summary import log_losses, summarise
from cdtl_core.results.report import Estimate, MethodResult
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import parse_json

if TYPE_CHECKING:  # they need torch, which a report of scores does not load
    from cdtl_core.federation.finish import Outcome
    from cdtl_core.federation.site import Site

__all__ = ["TEST_FILE", "VALIDATION_FILE", "Scores", "candidate_losses", "gains", "log_loss_changes"]
__all__ += ["method_result", "read_scores", "save_scores", "scores_of", "with_own_model"]

TEST_FILE, VALIDATION_FILE = "scores.csv", "validation.csv"
_CALIBRATED = "p_calibrated"
"""Column of the model that the site uses."""
_CALIBRATED_OTHER = "calibrated_"
"""Prefix of the columns of the other candidates."""
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Probabilities of the positive label for one fold's images N, with the nine digits of the files.

    Attributes:
        images: File names.
        positive: Truth.
        patients: Number of each image's patient.
        columns: ``p_<candidate>``.
        chosen: The candidate that the site uses.
        calibrated: Candidate to calibrated probabilities, if it could be calibrated.
        unit: What the rows are: ``image``, ``exam`` or ``patient``.
    """

    images: tuple[str, ...]
    positive: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[np.float64]]
    chosen: str
    calibrated: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    unit: str = "image"

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the candidates."""
        return tuple(column.removeprefix("p_") for column in self.columns)

    @property
    def used(self) -> npt.NDArray[np.float64]:
        """Raw probabilities of the model the site uses; they rank images as the calibrated ones do."""
        return self.columns[f"p_{self.chosen}"]

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """Probabilities as in `cdtl predict`: calibrated if possible."""
        return self.probability_of(self.chosen)

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature was fitted."""
        return self.chosen in self.calibrated

    def probability_of(self, candidate: str) -> npt.NDArray[np.float64]:
        """Return the probabilities of this candidate as in `cdtl predict`: calibrated if possible."""
        return self.calibrated.get(candidate, self.columns[f"p_{candidate}"])

    @property
    def num_patients(self) -> int:
        """Number of patients."""
        return len(np.unique(self.patients))


def scores_of(site: "Site", outcome: "Outcome", split: Split) -> Scores:
    """Return the predictions of a run's models for the images of a split.

    Args:
        site: The hospital.
        outcome: The outcome of the run.
        split: ``test`` or ``val``.
    """
    fold, found = site.cohort.folds[split], outcome.test if split == "test" else outcome.val
    calibrated = {
        name: rescale(found[name], temperature)
        for name, temperature in outcome.temperatures.items()
        if temperature is not None
    }
    return Scores(
        images=site.cohort.names(fold),
        positive=fold.labels == site.positive,
        patients=fold.patients,
        columns={f"p_{name}": _probability(values, site.positive) for name, values in found.items()},
        chosen=outcome.selection.chosen,
        calibrated={name: _probability(values, site.positive) for name, values in calibrated.items()},
        unit=site.config.task.unit,
    )


def save_scores(folder: Path, test: Scores, val: Scores) -> None:
    """Write ``scores.csv`` and ``validation.csv`` into a model folder.

    Args:
        folder: The model folder.
        test: Scores of test images.
        val: Scores of validation images.

    Raises:
        CheckpointError: The disk is full or read-only.
    """
    for name, scores in ((TEST_FILE, test), (VALIDATION_FILE, val)):
        names = {one: _CALIBRATED if one == scores.chosen else _CALIBRATED_OTHER + one for one in scores.calibrated}
        columns = {**scores.columns, **{names[one]: values for one, values in scores.calibrated.items()}}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "patient", "positive", *columns])
        for i, image in enumerate(scores.images):
            figures = [f"{values[i]:.9g}" for values in columns.values()]
            writer.writerow([image, scores.patients[i], int(scores.positive[i]), *figures])
        replace_bytes(folder / name, text.getvalue().encode())


def read_scores(folder: Path, name: str = TEST_FILE) -> Scores | None:
    """Return the scores in a model folder; None if there are none, as `validation.csv` in earlier versions.

    Raises:
        CheckpointError: A file is damaged.
    """
    if not (folder / name).exists() or not (folder / NOTE_FILE).exists():
        return None
    try:
        note = parse_json((folder / NOTE_FILE).read_text(encoding="utf-8"))
        chosen = note["chosen"]
        with open(folder / name, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = [column for column in rows[0] if column.startswith("p_") and column != _CALIBRATED]
        calibrated = {chosen: _CALIBRATED} if _CALIBRATED in rows[0] else {}
        calibrated |= {
            column.removeprefix(_CALIBRATED_OTHER): column for column in rows[0] if column.startswith(_CALIBRATED_OTHER)
        }
        return Scores(
            images=tuple(row["image"] for row in rows),
            positive=np.array([row["positive"] == "1" for row in rows]),
            patients=np.array([int(row["patient"]) for row in rows]),
            columns={column: _floats(rows, column) for column in columns},
            chosen=chosen,
            calibrated={name: _floats(rows, column) for name, column in calibrated.items()},
            unit=str(note.get("unit", "image")),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise CheckpointError(
            f"{folder / name} cannot be read ({type(error).__name__}): restore it, or finish the run again."
        ) from None


def method_result(scores: Scores, seed: int) -> MethodResult:
    """Return the figures of a method's model on the test patients."""
    return MethodResult(
        auroc=Estimate.of(auroc_interval(scores.positive, scores.used, scores.patients, seed=seed)),
        metrics={name: _number(value) for name, value in summarise(scores.positive, scores.probability).items()},
    )


def gains(found: Mapping[str, Scores], seed: int) -> dict[str, Estimate]:
    """Return ``<method>-alone`` to the paired difference of AUROC on the same test patients."""
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


def log_loss_changes(found: Mapping[str, Scores], seed: int) -> dict[str, Estimate]:
    """Return ``<method>-alone`` to the paired difference of log-loss on the same test patients; below 0 is better.

    Both models are calibrated if the site could do so. Empty without an own model.
    """
    found = with_own_model(found)
    if "alone" not in found:
        return {}
    alone = found["alone"]
    return {
        f"{method}-alone": _log_loss_change(scores, scores.probability, alone.probability, seed)
        for method, scores in found.items()
        if method != "alone"
    }


def candidate_losses(scores: Scores, seed: int) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return candidate to its log-loss, and to its paired difference to the own model's."""
    truth = scores.positive
    losses = {
        name: Estimate.of(mean_interval(log_losses(truth, scores.probability_of(name)), scores.patients, seed=seed))
        for name in scores.candidates
    }
    if "own" not in losses:
        return losses, {}
    own = scores.probability_of("own")
    changes = {
        name: _log_loss_change(scores, scores.probability_of(name), own, seed) for name in losses if name != "own"
    }
    return losses, changes


def _log_loss_change(scores: Scores, one: _Floats, other: _Floats, seed: int) -> Estimate:
    change = log_losses(scores.positive, one) - log_losses(scores.positive, other)
    return Estimate.of(mean_interval(change, scores.patients, seed=seed))


def with_own_model(found: Mapping[str, Scores]) -> dict[str, Scores]:
    """Return results by method, with `alone` from the own model of another method if it was not run."""
    other = next((one for one in found.values() if "p_own" in one.columns), None)
    if "alone" in found or other is None:
        return dict(found)
    columns = {"p_own": other.columns["p_own"]}
    calibrated = {"own": other.calibrated["own"]} if "own" in other.calibrated else {}
    own = Scores(other.images, other.positive, other.patients, columns, "own", calibrated, other.unit)
    return {"alone": own, **found}


def _probability(scores: _Floats, positive: int) -> _Floats:
    """Return the probability of the positive label from log-probabilities N K, rounded as in the files."""
    return np.array([float(f"{value:.9g}") for value in np.exp(scores[:, positive])])


def _floats(rows: Sequence[Mapping[str, str]], column: str) -> _Floats:
    return np.array([float(row[column]) for row in rows])


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
