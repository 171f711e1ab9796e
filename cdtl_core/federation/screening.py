"""Screening: each update of a round is checked on arrival, then added to its group's mean, or refused with a reason.

A few updates at a time are in memory: they are dropped once they have been added. An update waits for the end of the
round in three cases, all but the first few in a temporary file. Too few sites have earlier updates for a comparison, as
in the first round. Or its norm is too large for the history: then the norms of this round show whether the site or the
whole run has changed. Or `aggregate.robust` is set, whose rules need all updates of a group.

A site with `aggregate.strikes` refused updates is quarantined: none of its updates counts any more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from cdtl_core.config import AggregateConfig, RunConfig
from cdtl_core.errors import FederationError
from cdtl_core.federation.aggregate import AT_ONCE, Mean, check_shapes, fold_in, robust_mean, spooled
from cdtl_core.federation.norms import norm_and_digest
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, Record, group_of, weight_of
from cdtl_core.models.compiled import Loops, loops_for
from cdtl_core.models.weights import Weights, is_finite

__all__ = ["Screening", "Seat", "close_screening", "miss", "open_screening", "refuse"]
__all__ += ["running_median", "screen"]

_OUT_OF_PLACE = "an update of an unknown site, of another round, or sent twice"
_NORMS = 5
"""Number of norms remembered per site: enough for a median that one update cannot move."""
_DIGESTS = 20
_FEWEST = 3
"""Smallest number of known sites for a median over sites: of two, no rule can find the false one."""


@dataclass(frozen=True)
class Seat:
    """Destination of a site's update.

    Attributes:
        group: The group whose mean it is added to.
        weight: Patients it counts with.
        pool: Name of the sites whose update norms form the reference; empty: only its own history.
    """

    group: str
    weight: int
    pool: str


@dataclass
class Screening:
    """The state of a round in progress. `screen`, `miss` and `refuse` fill it in place.

    Attributes:
        round: Its number.
        settings: How to judge and average.
        seats: Site to its destination.
        before: Each site's record before the round.
        records: Each site's current record.
        metrics: Site to its metrics, for sites whose updates count.
        refused: Site to why its update does not count.
        spent: Sites whose privacy budget is spent.
        heads: Site to its own head, for sites whose updates count and that sent one.
    """

    round: int
    settings: AggregateConfig
    seats: Mapping[str, Seat]
    before: Mapping[str, Record]
    records: dict[str, Record] = field(init=False)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(init=False)
    spent: set[str] = field(default_factory=set)
    heads: dict[str, Weights] = field(default_factory=dict)
    _held: dict[str, tuple[SiteUpdate, float, str]] = field(default_factory=dict)
    _norms: dict[str, float] = field(default_factory=dict)
    _means: dict[str, Mean] = field(default_factory=dict)
    _deltas: dict[str, dict[str, Weights]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.records = {site: self.before.get(site, Record()) for site in self.seats}
        self.refused = {site: record.quarantined for site, record in self.records.items() if record.quarantined}


def open_screening(state: CoordinatorState, config: RunConfig) -> Screening:
    """Return an empty screening for the round after `state`.

    Under `alone` the norm check is off: the update affects no other site. Through the noise, the norm of a site with
    differential privacy depends on its number of patients, so it is compared only with its own history.
    """
    alone, settings = config.method == "alone", config.aggregate
    seats = {
        m.site: Seat(group_of(m, config), weight_of(m, config), "" if m.ledger or alone else m.modality)
        for m in state.members
    }
    judged = settings.model_copy(update={"norm_bound": 0.0}) if alone else settings
    return Screening(state.round + 1, judged, seats, state.records)


def screen(screening: Screening, update: SiteUpdate) -> None:
    """Judge an update, then add it to its group's mean, hold it until the round closes, or record why it is refused."""
    site = update.site
    if site in screening.seats and screening.records[site].quarantined:
        return
    if site not in screening.seats or site in screening.metrics or site in screening.spent or site in screening._held:
        screening.refused[site] = _OUT_OF_PLACE
        return
    if update.round != screening.round:
        refuse(screening, site, _OUT_OF_PLACE)
        return
    if update.spent:
        screening.spent.add(site)
        return
    norm, digest = norm_and_digest(update.delta, _loops(screening, update))
    if not math.isfinite(norm):
        name = next(name for name, value in update.delta.items() if not is_finite(value))
        refuse(screening, site, f"an update has values in '{name}' that are not finite: leave that site out.")
        return
    screening._norms[site] = norm
    usual, pool = _usual(screening, site), screening.seats[site].pool
    if pool and (usual is None or 0 < screening.settings.norm_bound * usual < norm):
        kept = update.delta if len(screening._held) < AT_ONCE else spooled(update.delta)
        screening._held[site] = (replace(update, delta=kept), norm, digest)
    else:
        _settle(screening, update, norm, digest, usual)


def miss(screening: Screening, site: str, why: str) -> None:
    """Record why no update of a site came. This is not a strike: the site may have been absent.

    Args:
        screening: The round.
        site: The site.
        why: The reason.
    """
    screening.refused[site] = why


def refuse(screening: Screening, site: str, why: str) -> None:
    """Record why an update does not count: a strike, and quarantine after `aggregate.strikes` of them.

    Args:
        screening: The round.
        site: The site.
        why: The reason.
    """
    record = _struck(screening.records[site], why, round=screening.round, strikes=screening.settings.strikes)
    screening.records[site] = record
    screening.refused[site] = record.quarantined or why


def close_screening(screening: Screening) -> dict[str, Mean]:
    """Judge the waiting updates; return each group's mean update, empty for a group without a usable one."""
    pools, now = _pools(screening), {site: (norm,) for site, norm in screening._norms.items()}
    for site in sorted(screening._held):
        update, norm, digest = screening._held.pop(site)
        usual = max(_usual(screening, site) or 0.0, running_median(now, pools, site) or 0.0)
        _settle(screening, update, norm, digest, usual or None)
    weights = {site: seat.weight for site, seat in screening.seats.items()}
    for group, deltas in screening._deltas.items():
        mean = robust_mean(deltas, weights, screening.settings.robust)
        shapes = {name: value.shape for name, value in mean.items()}
        screening._means[group] = Mean(dict.fromkeys(mean, 1), shapes, mean)
    return {seat.group: screening._means.get(seat.group, Mean()) for seat in screening.seats.values()}


def running_median(norms: Mapping[str, Sequence[float]], pools: Mapping[str, str], site: str) -> float | None:
    """Return the norm that a site's update is compared with; None if there is no reference.

    It is the median over the last updates of the sites in its pool. With fewer than three known sites in the pool it is
    the median over all pools. A site without a pool is compared with its own history.

    Args:
        norms: Site to norms of its last updates.
        pools: Site to its modality; empty for a site with differential privacy, whose noise depends on its size.
        site: The site whose update is judged.
    """
    if not pools[site]:
        return median(norms[site]) if norms.get(site) else None
    known = [other for other in norms if norms[other] and pools.get(other)]
    alike = [other for other in known if pools[other] == pools[site]]
    chosen = alike if len(alike) >= _FEWEST else known
    return median(value for other in chosen for value in norms[other]) if len(chosen) >= _FEWEST else None


def _usual(screening: Screening, site: str) -> float | None:
    """Return the running median of accepted updates before the round; None while too few sites have any."""
    past = {name: screening.before[name].norms for name in screening.seats if name in screening.before}
    return running_median(past, _pools(screening), site)


def _pools(screening: Screening) -> dict[str, str]:
    return {name: seat.pool for name, seat in screening.seats.items()}


def _settle(screening: Screening, update: SiteUpdate, norm: float, digest: str, reference: float | None) -> None:
    """Add an update and remember it, or refuse it.

    Args:
        screening: The round.
        update: The update.
        norm: Its norm.
        digest: Its digest.
        reference: The norm to compare with, or None.
    """
    site, record = update.site, screening.records[update.site]
    why = _fault(record, norm, digest, reference, bound=screening.settings.norm_bound)
    try:
        if not why:
            _add(screening, update)
    except FederationError as error:
        why = str(error)
    if why:
        refuse(screening, site, why)
        return
    digests = (*record.digests, digest)[-_DIGESTS:] if norm else record.digests
    screening.records[site] = replace(record, norms=(*record.norms, norm)[-_NORMS:], digests=digests)
    screening.metrics[site] = update.metrics
    if update.own:
        screening.heads[site] = update.own


def _fault(record: Record, norm: float, digest: str, reference: float | None, *, bound: float) -> str:
    """Return why an update is not used, as the end of a sentence; empty if it is used.

    Args:
        record: Memory of its site.
        norm: Norm of the update.
        digest: Digest of the update.
        reference: The result of `running_median`.
        bound: Largest allowed norm, as a multiple of the reference; 0 disables the check.
    """
    if norm and digest in record.digests:
        return "its update is one that it sent in an earlier round"
    if bound and reference and norm > bound * reference:
        return f"its update is {norm / reference:.3g} times the usual norm of its modality, more than {bound:g}"
    return ""


def _struck(record: Record, why: str, *, round: int, strikes: int) -> Record:
    """Return the record with one more refused update; after `strikes` of them the site is quarantined.

    Args:
        record: Memory of the site.
        why: The reason.
        round: Number of the round.
        strikes: Limit; 0: no quarantine.
    """
    count = record.strikes + 1
    out = f"quarantined since round {round}: {why.rstrip('.')}" if strikes and count >= strikes else ""
    return replace(record, strikes=count, quarantined=record.quarantined or out)


def _add(screening: Screening, update: SiteUpdate) -> None:
    seat = screening.seats[update.site]
    if screening.settings.robust == "none":
        mean = screening._means.setdefault(seat.group, Mean(loops=_loops(screening, update)))
        fold_in(mean, update.delta, seat.weight)
        return
    held = screening._deltas.setdefault(seat.group, {})
    for other in held.values():
        check_shapes(update.delta, {name: value.shape for name, value in other.items()})
    held[update.site] = spooled(update.delta)


def _loops(screening: Screening, update: SiteUpdate) -> Loops | None:
    return loops_for(len(screening.seats) * sum(value.numel() for value in update.delta.values()))
