"""The coordinator's state between rounds: members, each group's offset, and a record of each site's updates.

The state is everything that a run needs to continue. A checkpoint is the state, and a round maps a state to the next
one.

An *offset* is a group's weights minus the initial weights, rounded to float16. Messages carry offsets, so the
coordinator and the sites compute with the same bits. A group is a modality. With the method `alone` each site is a
separate group and nothing is shared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cdtl_core.config import RunConfig
from cdtl_core.errors import FederationError
from cdtl_core.federation.site import RoundOrder
from cdtl_core.models.weights import Weights

__all__ = ["CoordinatorState", "HeadSum", "Member", "Record", "group_of", "is_quarantined", "join", "order_for"]
__all__ += ["shares_head", "start", "weight_of"]


@dataclass(frozen=True)
class Member:
    """A site as the coordinator knows it.

    A site that trains with differential privacy also names its privacy ledger and how often it has reserved steps. Its
    number of patients is then rounded, once for all runs.

    Attributes:
        site: Its name.
        modality: Modality of all its images.
        num_patients: Patients it trains on.
        label_hash: Hash of its ordered labels.
        ledger: Number of its privacy ledger; empty without differential privacy.
        reservations: Number of reservations in that ledger.
    """

    site: str
    modality: str
    num_patients: int
    label_hash: str
    ledger: str = ""
    reservations: int = 0


@dataclass(frozen=True)
class Record:
    """Record of a site's updates in a run.

    Attributes:
        norms: Euclidean norms of its last accepted updates, the newest last.
        digests: Digests of its last accepted updates, the newest last; an update of zeros has none.
        strikes: Number of its updates that were refused for their content.
        quarantined: Why none of its updates counts any more; empty if they count.
    """

    norms: tuple[float, ...] = ()
    digests: tuple[str, ...] = ()
    strikes: int = 0
    quarantined: str = ""


@dataclass(frozen=True)
class HeadSum:
    """The patient-weighted sum of the own heads of a modality's sites; the coordinator needs only sums.

    Attributes:
        total: Shared name to sum, float64.
        patients: Hash of a label map to the patients in the sums of its heads.
        sites: Site to its patients in the sum.
    """

    total: Weights
    patients: Mapping[str, int]
    sites: Mapping[str, int]


@dataclass(frozen=True)
class CoordinatorState:
    """The last complete round and every group's offset after it.

    Attributes:
        round: 0 before training.
        members: In the order of their names.
        offsets: Group to offset, float16; tensors without any update yet are absent.
        initial_weights_hash: SHA-256 of the weights that the offsets add to.
        records: Site to the record of its updates.
        heads: Modality to the sum of its sites' own heads, after the last round of a run that trains only heads.
    """

    round: int
    members: tuple[Member, ...]
    offsets: Mapping[str, Weights]
    initial_weights_hash: str = ""
    records: Mapping[str, Record] = field(default_factory=dict)
    heads: Mapping[str, HeadSum] = field(default_factory=dict)


def start(members: Iterable[Member], config: RunConfig, initial_weights_hash: str = "") -> CoordinatorState:
    """Return the state before the first round.

    Args:
        members: The sites that take part, in any order.
        config: The run's settings.
        initial_weights_hash: SHA-256 of the initial weights.

    Raises:
        FederationError: There is no site, or two sites have the same name.
    """
    ordered = tuple(sorted(members, key=lambda member: member.site))
    if not ordered:
        raise FederationError("the federation has no site: enrol at least one.")
    if len({member.site for member in ordered}) != len(ordered):
        raise FederationError("two sites have the same name: give each site a different name.")
    empty: dict[str, Weights] = {group: {} for group in sorted({group_of(m, config) for m in ordered})}
    return CoordinatorState(0, ordered, empty, initial_weights_hash)


def join(state: CoordinatorState, members: Iterable[Member], config: RunConfig) -> CoordinatorState:
    """Return the state with these members added or replaced; a new group starts from the initial weights.

    Args:
        state: The state.
        members: The members.
        config: The run's settings.
    """
    by_site = {member.site: member for member in (*state.members, *members)}
    ordered = tuple(by_site[site] for site in sorted(by_site))
    groups = sorted({group_of(member, config) for member in ordered})
    offsets = {group: state.offsets.get(group, {}) for group in groups}
    return replace(state, members=ordered, offsets=offsets)


def group_of(member: Member, config: RunConfig) -> str:
    """The group whose weights a site receives: its modality, or the site itself under `alone`."""
    return member.site if config.method == "alone" else member.modality


def weight_of(member: Member, config: RunConfig) -> int:
    """Return the patients with which a site's update counts, at most `federation.patient_cap`."""
    cap = config.federation.patient_cap
    return min(member.num_patients, cap) if cap else member.num_patients


def is_quarantined(state: CoordinatorState, member: Member) -> bool:
    """Whether no update of this site counts any more; then it is not asked for one."""
    return member.site in state.records and bool(state.records[member.site].quarantined)


def order_for(state: CoordinatorState, member: Member, config: RunConfig) -> RoundOrder:
    """Return the coordinator's order for a site in the next round.

    Args:
        state: The state.
        member: The site.
        config: The run's settings.
    """
    return RoundOrder(state.round + 1, state.offsets[group_of(member, config)], shares_head(state, member, config))


def shares_head(state: CoordinatorState, member: Member, config: RunConfig) -> bool:
    """Whether a site's head is shared: the run shares heads, and another site has the same label map.

    Args:
        state: The state.
        member: The site.
        config: The run's settings.
    """
    alike = [other for other in state.members if other.label_hash == member.label_hash]
    return config.share.head and config.method != "alone" and len(alike) > 1
