"""The updates of one round as they come: each is judged, then added to its group's mean, or refused with a reason.

An update is dropped once it has been added. It is held, in a temporary file, until all have come only where too few
sites have a past to be compared with, as in a run's first round; where it is longer than usual, since the others' may
be too; and under `aggregate.robust`, whose means need all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cdtl_core.config import AggregateConfig
from cdtl_core.errors import FederationError
from cdtl_core.federation.aggregate import Mean, check_update, fold_in, mean_of
from cdtl_core.federation.guard import Record, accept, digest_of, judge, norm_of, running_median, struck
from cdtl_core.federation.robust import robust_mean
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.spool import spooled
from cdtl_core.learning.weights import Weights

__all__ = ["Intake", "Seat", "finished", "take_in"]

_OUT_OF_PLACE = "an update of an unknown site, of another round, or sent twice"


@dataclass(frozen=True)
class Seat:
    """Where a site's update goes: its group, its patients, and whose updates are as long (empty: its own alone)."""

    group: str
    weight: int
    pool: str


@dataclass
class Intake:
    """What a round has received so far; filled in place by `take_in`.

    Attributes:
        round: Its number.
        settings: How to judge and average.
        seats: Site to its place.
        before: Each site's record before the round.
        records: The same as the round goes on.
        metrics: Of sites whose updates counted.
        refused: Site to why its update did not.
        spent: Sites whose privacy budget is spent.
    """

    round: int
    settings: AggregateConfig
    seats: Mapping[str, Seat]
    before: Mapping[str, Record]
    records: dict[str, Record] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    _held: dict[str, tuple[SiteUpdate, float, str]] = field(default_factory=dict)
    _means: dict[str, Mean] = field(default_factory=dict)
    _deltas: dict[str, dict[str, Weights]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.records = {site: self.before.get(site, Record()) for site in self.seats}
        self.refused = {site: record.quarantined for site, record in self.records.items() if record.quarantined}


def take_in(intake: Intake, update: SiteUpdate) -> None:
    """Judge an update and add it, or note why not."""
    site = update.site
    if site in intake.seats and intake.records[site].quarantined:
        return
    if site not in intake.seats or site in intake.metrics or site in intake.spent or site in intake._held:
        intake.refused[site] = _OUT_OF_PLACE
        return
    if update.round != intake.round:
        _refuse(intake, site, _OUT_OF_PLACE)
        return
    if update.spent:
        intake.spent.add(site)
        return
    try:
        check_update(update.delta)
    except FederationError as error:
        _refuse(intake, site, str(error))
        return
    norm, digest = norm_of(update.delta), digest_of(update.delta)
    reference, bound = _reference(intake, site, {}), intake.settings.norm_bound
    is_clear = reference is not None and not (bound and norm > bound * reference)
    if intake.seats[site].pool and not is_clear:
        intake._held[site] = (replace(update, delta=spooled(update.delta)), norm, digest)
    else:
        _settle(intake, update, norm, digest, reference)


def finished(intake: Intake) -> dict[str, Weights]:
    """Each group's mean update, float64, of a group from which nothing usable came: empty."""
    held = {site: norm for site, (_, norm, _) in intake._held.items()}
    now = held | {site: intake.records[site].norms[-1] for site in intake.metrics}
    for site in sorted(held):
        update, norm, digest = intake._held.pop(site)
        usual = [one for one in (_reference(intake, site, held), _median(intake, site, now)) if one is not None]
        _settle(intake, update, norm, digest, max(usual, default=None))
    means = {group: mean_of(mean) for group, mean in intake._means.items()}
    weights = {site: seat.weight for site, seat in intake.seats.items()}
    for group, deltas in intake._deltas.items():
        means[group] = robust_mean(deltas, weights, intake.settings.robust)
    return {group: means.get(group, {}) for group in {seat.group for seat in intake.seats.values()}}


def _reference(intake: Intake, site: str, now: Mapping[str, float]) -> float | None:
    """The usual length by what was known before the round and, of sites without a past, by what they send `now`."""
    norms: dict[str, tuple[float, ...]] = {name: (value,) for name, value in now.items()}
    norms |= {name: record.norms for name, record in intake.before.items() if record.norms and name in intake.seats}
    return running_median(norms, _pools(intake), site)


def _median(intake: Intake, site: str, now: Mapping[str, float]) -> float | None:
    """The usual length by what this round brought alone: a step that is longer at most sites is no attack."""
    return running_median({name: (value,) for name, value in now.items()}, _pools(intake), site)


def _pools(intake: Intake) -> dict[str, str]:
    return {name: seat.pool for name, seat in intake.seats.items()}


def _settle(intake: Intake, update: SiteUpdate, norm: float, digest: str, reference: float | None) -> None:
    site, seat = update.site, intake.seats[update.site]
    why = judge(intake.records[site], norm, digest, reference, bound=intake.settings.norm_bound)
    try:
        if not why:
            _add(intake, seat, update)
    except FederationError as error:
        why = str(error)
    if why:
        _refuse(intake, site, why)
        return
    intake.records[site] = accept(intake.records[site], norm, digest)
    intake.metrics[site] = update.metrics


def _add(intake: Intake, seat: Seat, update: SiteUpdate) -> None:
    mean = intake._means.setdefault(seat.group, Mean())
    if intake.settings.robust == "none":
        fold_in(mean, update.delta, seat.weight)
        return
    held = intake._deltas.setdefault(seat.group, {})
    for other in held.values():
        check_update(update.delta, other)
    held[update.site] = spooled(update.delta)


def _refuse(intake: Intake, site: str, why: str) -> None:
    record = struck(intake.records[site], why, round=intake.round, strikes=intake.settings.strikes)
    intake.records[site] = record
    intake.refused[site] = record.quarantined or why
