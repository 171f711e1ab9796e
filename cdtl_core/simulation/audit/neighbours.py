"""Releases one private step many times, with and without one patient, and guesses which is which.

All patients have several images, so the images in a step are random. The adversary knows every image. If all draws come
from one sequence that she knows, the patient's absence is visible in the draws of all others.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.draws import SECRET_BYTES, Draws, keyed_draws
from cdtl_core.models.weights import load_into
from cdtl_core.privacy.audit import CONFIDENCE
from cdtl_core.privacy.mechanism import Grant
from cdtl_core.privacy.partial import fit_part
from cdtl_core.simulation.audit.canary_run import Subject, head_of, zeros_of
from cdtl_core.simulation.audit.faults import Fault, granted
from cdtl_core.training.features import Features

__all__ = ["STEP_CLAIM", "Distinction", "distinguish"]

Floats = npt.NDArray[np.float64]

STEP_CLAIM = 1.0
"""Epsilon of the single step: a hundred repeats, all guessed right, certify at most 3."""
_PATIENTS, _IMAGES = 300, (3, 6)


@dataclass(frozen=True)
class Distinction:
    """Result of the repeats.

    Attributes:
        claim: Epsilon of one step at `delta`, as a ledger counts it.
        bound: Epsilon that the guesses certify, at 95 %.
        repeats: Releases with the patient, and as many without.
        found: Releases with her that were guessed as such.
        alarms: Releases without her that were guessed as with her.
        separation: Distance between the two releases before noise, in standard deviations of the claimed noise.
        most: The separation that the claim allows: one clipping norm.
    """

    claim: float
    bound: float
    repeats: int
    found: int
    alarms: int
    separation: float
    most: float

    @property
    def refuted(self) -> bool:
        """Whether the bound exceeds the claim."""
        return self.bound > self.claim


def distinguish(
    subject: Subject, *, repeats: int, seed: int, broken: Fault = Fault.NONE, draws: Draws | None = None
) -> Distinction:
    """Release one step with and without a patient, `repeats` times each, and guess which is which.

    Args:
        subject: Its settings and network; its patients are not used.
        repeats: Number of releases of each kind.
        seed: Seed of the synthetic patients; noise comes from the kernel.
        broken: What to break on purpose.
        draws: Replaces the draws of each release, to model an adversary who knows their secret.
    """
    config = _one_step(subject.site.config)
    with TemporaryDirectory() as folder:
        (turn,) = granted(config, _PATIENTS, Path(folder), broken, centres=False)
    known = draws or turn.draws or keyed_draws(bytes(SECRET_BYTES))
    whole = _cohort(subject, np.random.default_rng(seed))
    pair = (whole, _without_first(*whole))
    silent = Grant(replace(turn.claimed, noise_multiplier=0.0), 1)
    inside, outside = (_release(subject, config, one, silent, known) for one in pair)
    direction, middle = inside - outside, (inside + outside) / 2
    found, alarms = (
        sum(
            float((_release(subject, config, one, turn.grant, draws or turn.draws) - middle) @ direction) > 0
            for _ in range(repeats)
        )
        for one in pair
    )
    bound = _certified(found, alarms, repeats, config.dp.target_delta)
    claimed = turn.claimed
    noise = config.dp.lr * claimed.noise_multiplier * claimed.max_grad_norm / claimed.expected
    separation = float(np.linalg.norm(direction)) / noise
    return Distinction(STEP_CLAIM, bound, repeats, found, alarms, separation, 1 / claimed.noise_multiplier)


def _certified(found: int, alarms: int, repeats: int, delta: float) -> float:
    """Return the largest epsilon that the guesses refute at 95 % confidence (Clopper, Pearson 1934).

    Args:
        found: Releases with the patient that were guessed as such.
        alarms: Releases without her that were guessed as with her.
        repeats: Releases of each kind.
        delta: Of that epsilon.
    """
    risk = (1 - CONFIDENCE) / 2
    sure = float(beta.ppf(risk, found, repeats - found + 1)) if found else 0.0
    most = float(beta.ppf(1 - risk, alarms + 1, repeats - alarms)) if alarms < repeats else 1.0
    return max(0.0, float(np.log((sure - delta) / most))) if sure > delta else 0.0


def _one_step(config: RunConfig) -> RunConfig:
    """Return the run's settings with one step in total, planned for the claim."""
    dp = config.dp.model_copy(update={"target_epsilon": STEP_CLAIM, "momentum": 0.0})
    train = config.train.model_copy(update={"steps": 1, "ema": 0.0})
    federation = config.federation.model_copy(update={"rounds": 1})
    return config.model_copy(update={"dp": dp, "train": train, "federation": federation})


def _cohort(subject: Subject, rng: np.random.Generator) -> tuple[Fold, Features]:
    """Return patients of three to six images, each in a separate direction."""
    counts = rng.integers(_IMAGES[0], _IMAGES[1] + 1, size=_PATIENTS)
    patients = np.repeat(np.arange(_PATIENTS), counts)
    views, width = subject.features.shape[1:]
    features = rng.standard_normal((len(patients), views, width))
    classes = subject.site.model.head.out_features
    labels = np.repeat(rng.integers(classes, size=_PATIENTS), counts)
    pixels = subject.fold.pixels
    return Fold(pixels, np.zeros(len(patients), np.int64), labels, patients), features.astype(np.float16)


def _without_first(fold: Fold, features: Features) -> tuple[Fold, Features]:
    rest = fold.patients > 0
    return fold.where(rest), features[rest]


def _release(
    subject: Subject, config: RunConfig, cohort: tuple[Fold, Features], grant: Grant, draws: Draws | None
) -> Floats:
    """Return the step's change of the head."""
    model = subject.site.model
    load_into(model, {**subject.initial_weights, **zeros_of(model)})
    fold, features = cohort
    fit_part(
        model, fold, config, grant, centred=True, epoch=0, device=subject.site.device, features=features, draws=draws
    )
    return head_of(model)
