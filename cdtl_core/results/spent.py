"""The contents of a privacy ledger as values: what was spent, by which run, and what is left."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cdtl_core.config.folders import SiteFolder
from cdtl_core.errors import ConfigError
from cdtl_core.federation.journal import unprotected_runs
from cdtl_core.privacy.accounting import Steps, affordable_steps, epsilon, epsilon_prv
from cdtl_core.privacy.ledger_entries import Plan, Reservation
from cdtl_core.privacy.ledger_file import PrivacyLedger, ledger_exists, read_ledger

__all__ = [
    "RoundSpent",
    "RunSpent",
    "Spent",
    "epsilons_of_site",
    "ledger_folders",
    "meaning_of",
    "not_covered",
    "spent_of",
]
__all__ += ["spent_of_site"]

_MANY = 1_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoundSpent(_Part):
    """A reservation: `taken` of the steps `reserved`; null if its end is not known, then all count.

    `faulty` steps are those of an earlier version whose noise gives no bound; epsilon excludes them.
    """

    round: int
    reserved: int
    taken: int | None
    noise_multiplier: float
    sample_rate: float
    faulty: bool = False

    @property
    def counted(self) -> int:
        """Number of its steps that count."""
        return self.reserved if self.taken is None else self.taken


class RunSpent(_Part):
    """A run's newest plan, its rounds, and what it may still spend: epsilon, and steps of its noise (up to 10^6)."""

    run: str
    target_epsilon: float
    target_delta: float
    noise_multiplier: float
    sample_rate: float
    planned_steps: int
    rounds: tuple[RoundSpent, ...]
    left_epsilon: float
    left_steps: int


class Spent(_Part):
    """A whole ledger.

    Attributes:
        folder: Its folder.
        ledger: Its number.
        site: Its site.
        opened: Seconds since 1970.
        num_patients: Training patients, rounded, treated as public.
        target_delta: Delta of the newest plan; null before the first.
        epsilon_rdp: Spent at that delta; budgets use it.
        epsilon_prv: The same by a tighter bound.
        runs: In order of their first plan.
        unprotected: Runs in which the site sent updates without privacy.
    """

    folder: str
    ledger: str
    site: str
    opened: float
    num_patients: int
    target_delta: float | None
    epsilon_rdp: float
    epsilon_prv: float
    runs: tuple[RunSpent, ...]
    unprotected: tuple[str, ...] = ()


def not_covered(one: Spent) -> tuple[str, ...]:
    """Return what the epsilon of a ledger does not cover, a sentence each; empty if it covers everything."""
    rounds = [(run.run, each) for run in one.runs for each in run.rounds if each.faulty and each.counted]
    found = []
    if rounds:
        names = ", ".join(dict.fromkeys(run for run, _ in rounds))
        found.append(
            f"{sum(each.counted for _, each in rounds)} steps of {names} were taken by an earlier version of cdtl "
            "whose noise gives no bound: one patient could change the sent values by many times the clip. Epsilon does "
            "not count them, and there is no bound for what they disclosed."
        )
    if one.unprotected:
        found.append(
            f"This site also sent updates without differential privacy, in {', '.join(one.unprotected)}: epsilon does "
            "not cover what they disclose about the same patients."
        )
    return tuple(found)


def meaning_of(one: Spent) -> str:
    """Return what a ledger's epsilon promises each patient, for a ledger with a plan."""
    but = "except for what NOT COVERED lists, " if not_covered(one) else ""
    return (
        f"This means: {but}adding or removing any one patient of this site's training set changes the probability of "
        f"everything the site has sent by a factor of at most e^{one.epsilon_rdp:.2f}, except with probability "
        f"{one.target_delta:g}; spending on the same patient's images at other sites adds to it."
    )


def ledger_folders(home: Path) -> tuple[Path, ...]:
    """Return the folders of a site's ledgers: its one, or those of its simulated runs; empty if it never trained so.

    Raises:
        ConfigError: There is no such folder.
    """
    if not home.is_dir():
        raise ConfigError(f"{home} is not a folder: give the site's, which holds its site.toml.")
    whole = SiteFolder(home).privacy
    if ledger_exists(whole):
        return (whole,)
    return tuple(sorted(path for path in whole.glob("*") if path.is_dir() and ledger_exists(path)))


def spent_of_site(home: Path) -> tuple[Spent, ...]:
    """All ledgers of a site's folder.

    Raises:
        ConfigError: There is no such folder.
        PrivacyError: A ledger is missing where there was one, damaged, or shorter than it was.
    """
    unprotected = unprotected_runs(SiteFolder(home))
    return tuple(spent_of(read_ledger(folder), folder, unprotected) for folder in ledger_folders(home))


def epsilons_of_site(home: Path) -> tuple[tuple[float, float], ...]:
    """Epsilon by RDP, which budgets use, and its delta, of each ledger of a site's folder; 0 and 0 before a plan.

    Raises:
        ConfigError: There is no such folder.
        PrivacyError: A ledger is missing where there was one, damaged, or shorter than it was.
    """
    found = [(ledger, _delta_of(ledger)) for ledger in map(read_ledger, ledger_folders(home))]
    return tuple((epsilon(ledger.history, delta), delta) if delta else (0.0, 0.0) for ledger, delta in found)


def spent_of(ledger: PrivacyLedger, folder: Path, unprotected: Iterable[str] = ()) -> Spent:
    """Return the contents of a ledger.

    Args:
        ledger: The ledger.
        folder: Its folder.
        unprotected: Runs without privacy that it need not name yet.
    """
    plans = [entry for entry in ledger.entries if isinstance(entry, Plan)]
    delta = _delta_of(ledger)
    opening = ledger.opening
    return Spent(
        folder=str(folder),
        ledger=opening.ledger,
        site=opening.site,
        opened=opening.at,
        num_patients=opening.num_patients,
        target_delta=delta,
        epsilon_rdp=epsilon(ledger.history, delta) if delta else 0.0,
        epsilon_prv=epsilon_prv(ledger.history, delta) if delta else 0.0,
        runs=tuple(_run(ledger, run) for run in dict.fromkeys(plan.run for plan in plans)),
        unprotected=tuple(dict.fromkeys((*ledger.unprotected, *unprotected))),
    )


def _delta_of(ledger: PrivacyLedger) -> float | None:
    """Return the delta of the newest plan; None before the first."""
    return next((entry.target_delta for entry in reversed(ledger.entries) if isinstance(entry, Plan)), None)


def _run(ledger: PrivacyLedger, run: str) -> RunSpent:
    plan = ledger.plan_of(run)
    assert plan is not None  # noqa: S101 - the name is a plan's
    limits = {"target_epsilon": plan.target_epsilon, "target_delta": plan.target_delta}
    more = Steps(plan.noise_multiplier, plan.sample_rate, _MANY)
    return RunSpent(
        run=run,
        noise_multiplier=plan.noise_multiplier,
        sample_rate=plan.sample_rate,
        planned_steps=plan.steps,
        rounds=tuple(_round(one, ledger.taken.get(one.number)) for one in ledger.reservations if one.run == run),
        left_epsilon=max(0.0, plan.target_epsilon - ledger.epsilon(plan.target_delta)),
        left_steps=affordable_steps(ledger.history, more, **limits),
        **limits,
    )


def _round(reservation: Reservation, taken: int | None) -> RoundSpent:
    return RoundSpent(
        round=reservation.round,
        reserved=reservation.steps,
        taken=taken,
        noise_multiplier=reservation.noise_multiplier,
        sample_rate=reservation.sample_rate,
        faulty=reservation.faulty,
    )
