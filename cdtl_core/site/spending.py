"""A site's privacy spending in a run: terms, ledger, and the numbers it treats as public."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SiteFolder
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.contract import round_patients
from cdtl_core.federation.journal import unprotected_runs
from cdtl_core.privacy.ledger import Budget, Reservation, commit, note_unprotected, open_ledger, reserve
from cdtl_core.privacy.ledger_file import PrivacyLedger, ledger_exists
from cdtl_core.privacy.mechanism import Grant, Mechanism, check_terms, without_noise

if TYPE_CHECKING:
    from cdtl_core.federation.site import Site  # torch, which a site's service does not load

__all__ = [
    "Granted",
    "check_one_ledger",
    "exempt_grant",
    "is_private",
    "ledger_folder",
    "ledger_of",
    "reserve_round",
    "settle",
]


@dataclass(frozen=True)
class Granted:
    """The ledger's grant for a round, to be settled once the update is stored."""

    grant: Grant
    reservation: Reservation


def is_private(own: SiteConfig, config: RunConfig) -> bool:
    """Whether a site trains with differential privacy in a run.

    Raises:
        PrivacyError: The run requires it and the site is exempt.
    """
    if config.dp.required and own.privacy.exempt:
        raise PrivacyError(
            "the run requires differential privacy (dp.required) and this site is exempt: remove privacy.exempt from "
            "site.toml, or do not take part in the run."
        )
    return config.dp.enabled and not own.privacy.exempt


def check_one_ledger(own: SiteConfig) -> None:
    """Refuse a hospital that would count each run separately.

    Raises:
        ConfigError: `privacy.ledger` is ``run``.
    """
    if own.privacy.ledger == "run":
        raise ConfigError(
            "privacy.ledger = 'run' counts each run separately and is for simulations: remove it from site.toml."
        )


def ledger_folder(home: Path, own: SiteConfig, federation: str) -> Path:
    """Return the folder of a site's ledger: one for all its runs, or one per run in simulations.

    Args:
        home: The site's folder.
        own: Its settings.
        federation: Name of the run.
    """
    folder = SiteFolder(home)
    return folder.ledger(federation) if own.privacy.ledger == "run" else folder.privacy


def ledger_of(home: Path, own: SiteConfig, config: RunConfig, site: "Site", federation: str) -> PrivacyLedger:
    """Return the site's ledger, created with its first private run.

    Args:
        home: The site's folder.
        own: Its settings.
        config: The run.
        site: The site.
        federation: Name of the run.

    Raises:
        ConfigError: The site publishes its pixels' statistics.
        PrivacyError: The terms give no protection for so few patients; or the ledger is missing although it existed,
            damaged, shorter than it was, or holds steps of an earlier version that the site has not accepted.
    """
    from cdtl_core.site.memory import was_private

    train = site.cohort.folds["train"].num_patients
    check_terms(config.dp, train)
    if own.publish.pixel_statistics:
        raise ConfigError("publish.pixel_statistics are not private: switch them off to train with privacy.")
    folder = ledger_folder(home, own, federation)
    if not ledger_exists(folder) and was_private(SiteFolder(home).memory(federation)):
        raise PrivacyError(
            f"this site has trained with privacy in {federation} and its ledger {folder} is missing: "
            "restore the newest copy of that folder."
        )
    cohort = site.cohort
    facts = {"patients": round_patients(cohort.num_patients), "channels": cohort.channels, "bit_depth": cohort.bits}
    ledger = open_ledger(folder, site=site.name, num_patients=round_patients(train), published=facts)
    if ledger.faulty and not own.privacy.accept_faulty_steps:
        raise PrivacyError(
            f"the privacy ledger {folder} holds rounds of an earlier version whose noise gives no bound (cdtl privacy "
            "ledger lists them), so no budget can be kept: ask your data protection officer, and set "
            "privacy.accept_faulty_steps = true in site.toml to continue and count from now on."
        )
    return note_unprotected(folder, unprotected_runs(SiteFolder(home))) if own.privacy.ledger == "site" else ledger


def reserve_round(
    home: Path, own: SiteConfig, config: RunConfig, site: "Site", federation: str, *, round: int, centred: bool
) -> Granted | None:
    """Reserve a round's steps; None if the budget allows none: the site sends nothing more.

    Args:
        home: The site's folder.
        own: Its settings.
        config: The run.
        site: The site.
        federation: Name of the run.
        round: Number of the round.
        centred: Whether the site has its centre.

    Raises:
        ConfigError, PrivacyError: As `ledger_of`.
    """
    public = ledger_of(home, own, config, site, federation).opening.num_patients
    dp, centre = config.dp, config.dp.centre_steps if config.model.levels else 0
    rate = min(1.0, dp.batch_patients / public) if dp.batch_patients else 1.0
    target = min(dp.target_epsilon, own.privacy.target_epsilon or dp.target_epsilon)
    budget = Budget(target, dp.target_delta, rate, config.federation.rounds * config.train.steps + centre)
    steps = config.train.steps + (0 if centred else centre)
    folder = ledger_folder(home, own, federation)
    reservation = reserve(folder, run=federation, round=round, steps=steps, budget=budget)
    if reservation is None:
        return None
    mechanism = Mechanism(reservation.noise_multiplier, reservation.sample_rate, dp.max_grad_norm, public)
    return Granted(Grant(mechanism, reservation.steps), reservation)


def settle(home: Path, own: SiteConfig, federation: str, granted: Granted) -> None:
    """Commit all steps of a reservation.

    Args:
        home: The site's folder.
        own: Its settings.
        federation: Name of the run.
        granted: The grant.
    """
    commit(ledger_folder(home, own, federation), granted.reservation, granted.reservation.steps)


def exempt_grant(config: RunConfig, site: "Site", *, centred: bool) -> Grant:
    """Return the steps of a site without differential privacy in a run with it: the same steps, no noise and no clip.

    Args:
        config: The run.
        site: The site.
        centred: Whether the site has its centre.
    """
    extra = config.dp.centre_steps if config.model.levels and not centred else 0
    patients = site.cohort.folds["train"].num_patients
    return Grant(without_noise(patients), config.train.steps + extra, private=False)
