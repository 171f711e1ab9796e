"""The updates of one round as they come: each is judged, then added to its group's mean, or refused with a reason.

An update is dropped once it has been added. It waits, in a temporary file, until all have come in three cases: too few
sites have a past to be compared with, as in a run's first round; it is too long for the past, when the lengths of this
round decide whether it is the site or the whole run that has changed; and under `aggregate.robust`, which needs all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cdtl_core.config import AggregateConfig
from cdtl_core.errors import FederationError
from cdtl_core.federation.aggregate import Mean, check_shapes, fold_in, mean_of
from cdtl_core.federation.guard import Record, accept, digest_of, judge, norm_of, running_median, struck
from cdtl_core.federation.robust import robust_mean
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.spool import spooled
from cdtl_core.models.weights import Weights, is_finite

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
    _lengths: dict[str, float] = field(default_factory=dict)
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
    norm = norm_of(update.delta)
    if not math.isfinite(norm):
        name = next(name for name, value in update.delta.items() if not is_finite(value))
        _refuse(intake, site, f"an update has values in '{name}' that are not finite: leave that site out.")
        return
    digest = digest_of(update.delta, norm)
    intake._lengths[site] = norm
    usual, pool = _usual(intake, site), intake.seats[site].pool
    if pool and (usual is None or 0 < intake.settings.norm_bound * usual < norm):
        intake._held[site] = (replace(update, delta=spooled(update.delta)), norm, digest)
    else:
        _settle(intake, update, norm, digest, usual)


def finished(intake: Intake) -> dict[str, Weights]:
    """Each group's mean update, float64, of a group from which nothing usable came: empty."""
    pools, now = _pools(intake), {site: (norm,) for site, norm in intake._lengths.items()}
    for site in sorted(intake._held):
        update, norm, digest = intake._held.pop(site)
        usual = max(_usual(intake, site) or 0.0, running_median(now, pools, site) or 0.0)
        _settle(intake, update, norm, digest, usual or None)
    means = {group: mean_of(mean) for group, mean in intake._means.items()}
    weights = {site: seat.weight for site, seat in intake.seats.items()}
    for group, deltas in intake._deltas.items():
        means[group] = robust_mean(deltas, weights, intake.settings.robust)
    return {group: means.get(group, {}) for group in {seat.group for seat in intake.seats.values()}}


def _usual(intake: Intake, site: str) -> float | None:
    """The running median of what was accepted before the round; None while too few sites have a past."""
    past = {name: intake.before[name].norms for name in intake.seats if name in intake.before}
    return running_median(past, _pools(intake), site)


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
        check_shapes(update.delta, other)
    held[update.site] = spooled(update.delta)


def _refuse(intake: Intake, site: str, why: str) -> None:
    record = struck(intake.records[site], why, round=intake.round, strikes=intake.settings.strikes)
    intake.records[site] = record
    intake.refused[site] = record.quarantined or why
