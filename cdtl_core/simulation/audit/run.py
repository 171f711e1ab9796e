"""The privacy audit: train once on canaries with the real mechanism, and guess which of them were included.

Nothing is sent, and no ledger, memory or model of a site is written: the ledger is in a temporary folder.
"""

from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.data.split import Split
from cdtl_core.errors import ConfigError
from cdtl_core.federation.contract import round_patients
from cdtl_core.federation.site import Site
from cdtl_core.metrics.metrics import log_loss_by_patient
from cdtl_core.privacy.audit import CONFIDENCE, correct_guesses, lower_bound, num_guesses
from cdtl_core.privacy.canaries import draw_canaries
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.privacy.mechanism import Grant, check_terms, without_noise
from cdtl_core.privacy.membership import Membership, membership
from cdtl_core.simulation.audit.canary_run import Subject, guess_scores, train
from cdtl_core.simulation.audit.faults import Fault, Turn, granted
from cdtl_core.simulation.audit.neighbours import Distinction, distinguish
from cdtl_core.site.home import open_site
from cdtl_core.training.scoring import score

__all__ = ["Audit", "audit", "audit_membership", "audited_terms", "phantom_config", "phantom_site"]

Floats = npt.NDArray[np.float64]
_PHANTOMS, _REPEATS = 250, 100


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        broken: What was broken on purpose.
        claim: Epsilon at `delta`, as the ledger counts it.
        bound: Epsilon that the guesses certify, at `confidence`.
        canaries: M.
        guesses: Number of guesses, fixed beforehand.
        correct: Number of right guesses.
        step: Result for releases of one step with and without a patient.
    """

    broken: Fault
    claim: float
    delta: float
    bound: float
    confidence: float
    canaries: int
    guesses: int
    correct: int
    step: Distinction

    @property
    def refuted(self) -> bool:
        """Whether a bound exceeds its claim."""
        return self.bound > self.claim or self.step.refuted

    @property
    def ceiling(self) -> float:
        """The bound if all guesses were right."""
        return lower_bound(canaries=self.canaries, guesses=self.guesses, correct=self.guesses, delta=self.delta)

    @property
    def as_expected(self) -> bool:
        """Whether it refutes a broken mechanism and does not refute the intact one."""
        return self.refuted == (self.broken is not Fault.NONE)

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {**asdict(self), "broken": self.broken.value, "refuted": self.refuted, "as_expected": self.as_expected}


def audit(subject: Subject, *, canaries: int, seed: int, broken: Fault = Fault.NONE) -> Audit:
    """Train once with canaries, each included or not by a coin, and guess the coins from everything that is released.

    Args:
        subject: The site; training uses its patients and the canaries.
        canaries: M.
        seed: Seed for canary selection. Noise and each patient's draws come from the kernel.
        broken: What to break on purpose.

    Raises:
        PrivacyError: The run's terms give no protection for this number of patients.
    """
    rng = np.random.default_rng([seed, canaries])
    config = subject.site.config
    planted = draw_canaries(subject.features, canaries, subject.site.model.head.out_features, rng)
    published = _published(subject.fold.num_patients + canaries // 2)
    check_terms(config.dp, published)
    with TemporaryDirectory() as name:
        folder = Path(name)
        turns = granted(config, published, folder, broken)
        scores = guess_scores(subject, planted, train(subject, planted, turns))
        delta = config.dp.target_delta
        claim = max(read_ledger(path.parent).epsilon(delta) for path in folder.rglob("ledger.jsonl"))
    guesses = num_guesses(canaries)
    correct = correct_guesses(scores, planted.present, guesses)
    bound = lower_bound(canaries=canaries, guesses=guesses, correct=correct, delta=delta)
    step = distinguish(subject, repeats=_REPEATS, seed=seed, broken=broken)
    return Audit(broken, claim, delta, bound, CONFIDENCE, canaries, guesses, correct, step)


def audit_membership(subject: Subject, *, seed: int, private: bool) -> Membership:
    """Train without canaries, then distinguish training patients from other patients of the site by their log-loss.

    Args:
        subject: The site.
        seed: Seed of the bootstrap.
        private: With the run's noise and clip; else the same part of the network with neither.
    """
    config, rng = subject.site.config, np.random.default_rng(seed)
    none = draw_canaries(subject.features, 0, 2, rng)
    count = subject.fold.num_patients
    with TemporaryDirectory() as folder:
        published = _published(count)
        turns = granted(config, published, Path(folder), Fault.NONE) if private else _exempt(config, count)
        deque(train(subject, none, turns), maxlen=0)
    members, others = _losses(subject.site, ("train",)), _losses(subject.site, ("val", "test"))
    return membership(members, others, seed=seed)


def audited_terms(config: RunConfig, epsilon: float | None) -> RunConfig:
    """Return the run with privacy enabled, and with another target if one is given.

    Raises:
        ConfigError: The target is not above 0.
    """
    if epsilon is not None and not 0 < epsilon < float("inf"):
        raise ConfigError(f"epsilon {epsilon} is not a claim that can be audited: give a number above 0.")
    dp = config.dp.model_copy(update={"enabled": True, "target_epsilon": epsilon or config.dp.target_epsilon})
    return config.model_copy(update={"dp": dp})


def phantom_config() -> RunConfig:
    """Return the default run for an audit.

    The clip is short and every patient is in each step, so that each canary has the largest influence that the claim
    allows. There are many rounds, so that an accountant that restarts in each round forgets most of the spending.
    """
    return RunConfig.model_validate(
        {
            "name": "audit",
            "image": {"size": 64},
            "model": {"levels": [7, 8, 9], "dropout": 0.0},
            "train": {"steps": 2, "lr_decay": 0.0},
            "federation": {"rounds": 80},
            "dp": {
                "enabled": True, "target_epsilon": 3.0, "max_grad_norm": 0.05, "multiplicity": 1, "views": 0,
                "centre_steps": 160, "momentum": 0.0,
            },
        }
    )  # fmt: skip


def phantom_site(home: Path, config: RunConfig) -> Site:
    """Make a site of synthetic patients in a folder."""
    own = SiteConfig.model_validate(
        {"site": "phantom", "modality": "ultrasound", "data": {"phantom": {"patients": _PHANTOMS}}}
    )
    save_toml(home / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
    return open_site(home, config)


def _published(patients: int) -> int:
    return max(10, round_patients(patients))


def _exempt(config: RunConfig, patients: int) -> list[Turn]:
    """Return the same rounds as a site without privacy trains them."""
    plain = without_noise(patients)
    centring = [Turn(plain, Grant(plain, config.dp.centre_steps), True, -1)] if config.model.levels else []
    grant = Grant(plain, config.train.steps)
    training = [Turn(plain, grant, False, epoch) for epoch in range(config.federation.rounds)]
    return centring + training


def _losses(site: Site, names: tuple[Split, ...]) -> Floats:
    """Return one log-loss per patient of these folds."""
    found = []
    for name in names:
        fold = site.cohort.folds[name]
        found.append(log_loss_by_patient(fold.labels, score(site.model, fold, device=site.device), fold.patients))
    return np.concatenate(found)
