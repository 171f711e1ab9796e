"""The server's algorithm as state in, state out: `step(state, updates, config) -> (state, RoundReport)`.

The state is each group's *offset*, its weights less the initial weights, on the grid of float16: that is what travels,
so server and
sites compute with the same bits. Rows of a blend matrix sum to 1, hence blending offsets is blending weights.

A group is a modality; for the method `alone` each site is its own group and nothing crosses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import zeros_like

from cdtl_core.config import BlendConfig, RunConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.blend import Matrix, blend, blend_matrix
from cdtl_core.federation.guard import Record, struck
from cdtl_core.federation.intake import Intake, Seat, finished, take_in
from cdtl_core.federation.robust import FEWEST
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.models.pieces import Piece, over_pieces, scratch, widened
from cdtl_core.models.weights import Weights, to_half

__all__ = ["CoordinatorState", "HeadSum", "Member", "RoundReport", "group_of", "join", "order_for"]
__all__ += ["robust_notes", "round_matrices", "shares_head", "start", "step", "strike"]


@dataclass(frozen=True)
class Member:
    """A site as the server knows it: name, modality, patients it trains on, hash of its label map.

    A site that trains with differential privacy also names its privacy ledger and how often it has reserved steps;
    its number of patients is then rounded, once for all.
    """

    site: str
    modality: str
    num_patients: int
    label_hash: str
    ledger: str = ""
    reservations: int = 0


@dataclass(frozen=True)
class HeadSum:
    """Own heads of a modality's sites, weighted by patients and added up: all that the server needs of them.

    Attributes:
        total: Name on the wire to sum, float64.
        patients: Hash of a label map to the patients in the sums of its heads.
        sites: Site to the patients with which its head is in the sum.
    """

    total: Weights
    patients: Mapping[str, int]
    sites: Mapping[str, int]


@dataclass(frozen=True)
class CoordinatorState:
    """All the server needs to go on: the last complete round and every group's offset after it.

    Attributes:
        round: 0 before training.
        members: In the order of their names.
        offsets: Group to offset, float16; tensors that nobody has changed yet are absent.
        initial_weights_hash: Of the weights that the offsets add to.
        records: Site to what its updates were like, and whether it is quarantined.
        heads: Modality to the sum of its sites' own heads; after the last round of a run that trains heads alone.
    """

    round: int
    members: tuple[Member, ...]
    offsets: Mapping[str, Weights]
    initial_weights_hash: str = ""
    records: Mapping[str, Record] = field(default_factory=dict)
    heads: Mapping[str, HeadSum] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundReport:
    """What one round did: whose updates counted, who was absent, whose were refused and why, and the blend matrix.

    `spent` are sites whose privacy budget is used up: they send nothing more and go on receiving.
    """

    round: int
    updated: tuple[str, ...]
    spent: tuple[str, ...]
    absent: tuple[str, ...]
    refused: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float]]
    groups: tuple[str, ...]
    matrix: Matrix


def start(members: Iterable[Member], config: RunConfig, initial_weights_hash: str = "") -> CoordinatorState:
    """The state before the first round.

    Raises:
        FederationError: No site, or two sites of one name.
    """
    ordered = tuple(sorted(members, key=lambda member: member.site))
    if not ordered:
        raise FederationError("the federation has no site: enrol at least one.")
    if len({member.site for member in ordered}) != len(ordered):
        raise FederationError("two sites have the same name: give each its own.")
    empty: dict[str, Weights] = {group: {} for group in sorted({group_of(m, config) for m in ordered})}
    return CoordinatorState(0, ordered, empty, initial_weights_hash)


def join(state: CoordinatorState, members: Iterable[Member], config: RunConfig) -> CoordinatorState:
    """The state with sites that came later or have other patients now; a new group starts from the initial weights."""
    by_site = {member.site: member for member in (*state.members, *members)}
    ordered = tuple(by_site[site] for site in sorted(by_site))
    groups = sorted({group_of(member, config) for member in ordered})
    offsets = {group: state.offsets.get(group, {}) for group in groups}
    return replace(state, members=ordered, offsets=offsets)


def round_matrices(state: CoordinatorState, config: RunConfig) -> list[Matrix]:
    """The blend matrix of every round of a run in which nobody is absent, each checked.

    Raises:
        ConfigError: No round would blend, a row is not stochastic, or a matrix would swap models.
    """
    rounds, settings = config.federation.rounds, config.blend
    if config.method == "cdtl" and settings.warmup + settings.settle >= rounds:
        raise ConfigError(
            f"blend.warmup + blend.settle is {settings.warmup + settings.settle} of {rounds} rounds: "
            "leave at least one round that blends."
        )
    return [_matrix(replace(state, round=round), config, present=state.offsets) for round in range(rounds)]


def group_of(member: Member, config: RunConfig) -> str:
    """The group whose weights a site receives: its modality, or itself under `alone`."""
    return member.site if config.method == "alone" else member.modality


def order_for(state: CoordinatorState, member: Member, config: RunConfig) -> RoundOrder:
    """What the server asks of a site in the next round."""
    return RoundOrder(state.round + 1, state.offsets[group_of(member, config)], shares_head(state, member, config))


def shares_head(state: CoordinatorState, member: Member, config: RunConfig) -> bool:
    """Whether a site's head is shared: others have the same label map, and the run shares heads."""
    alike = [other for other in state.members if other.label_hash == member.label_hash]
    return config.share.head and config.method != "alone" and len(alike) > 1


def step(
    state: CoordinatorState, updates: Iterable[SiteUpdate], config: RunConfig
) -> tuple[CoordinatorState, RoundReport]:
    """One server round: group, mean, apply, blend, report. Updates are consumed one at a time, in any order.

    A group none of whose sites answered keeps its weights; it still is a donor with what it last had. One whose sites
    have spent their privacy budgets goes on receiving.

    Raises:
        FederationError: No usable update came, and nobody's budget is spent.
    """
    intake, heads, owns = _intake(state, config), dict[str, HeadSum](), dict[str, Weights]()
    for update in updates:
        take_in(intake, update)
        owns.setdefault(update.site, update.own)
    means = finished(intake)  # only now is it known which updates count
    for member in state.members:
        if member.site in intake.metrics and owns[member.site]:
            heads[member.modality] = _with_head(heads.get(member.modality), member, owns[member.site], config)
    metrics, refused, spent = intake.metrics, intake.refused, intake.spent
    if not metrics and not spent:
        reasons = "; ".join(f"{site}: {why}" for site, why in refused.items())
        raise FederationError(f"round {state.round + 1} brought no usable update: {reasons or 'no site sent one'}.")
    applied = _complete({group: _apply(offset, means.get(group, {})) for group, offset in state.offsets.items()})
    here = {group_of(member, config) for member in state.members if member.site in metrics or member.site in spent}
    matrix = _matrix(state, config, present=here)
    offsets = _halved(blend(applied, matrix, depth=_blend_settings(config).depth))
    records = {**state.records, **intake.records}
    after = replace(state, round=state.round + 1, offsets=offsets, records=records, heads=heads)
    absent = tuple(m.site for m in state.members if m.site not in {*metrics, *refused, *spent})
    ordered = {m.site: metrics[m.site] for m in state.members if m.site in metrics}
    empty = tuple(m.site for m in state.members if m.site in spent)
    return after, RoundReport(after.round, tuple(ordered), empty, absent, refused, ordered, tuple(applied), matrix)


def strike(state: CoordinatorState, faults: Mapping[str, str], config: RunConfig) -> CoordinatorState:
    """The state after a round in which members sent what could not even be read."""
    records, strikes = dict(state.records), config.aggregate.strikes
    for member in state.members:
        if why := faults.get(member.site):
            record = records.get(member.site, Record())
            records[member.site] = struck(record, why.rstrip("."), round=state.round, strikes=strikes)
    return replace(state, records=records)


def robust_notes(state: CoordinatorState, config: RunConfig) -> list[str]:
    """A sentence for each modality that has too few sites for `aggregate.robust`.

    Raises:
        ConfigError: That is all of them.
    """
    rule = config.aggregate.robust
    if rule == "none" or config.method == "alone":
        return []
    groups = [group_of(member, config) for member in state.members]
    few = {group: groups.count(group) for group in state.offsets if groups.count(group) < FEWEST}
    if len(few) == len(state.offsets):
        raise ConfigError(
            f"aggregate.robust = '{rule}' needs {FEWEST} sites of a modality, and no modality has as many: use 'none'."
        )
    return [
        f"{group} has {n} of the {FEWEST} sites that '{rule}' needs: their plain mean is used."
        for group, n in few.items()
    ]


def _intake(state: CoordinatorState, config: RunConfig) -> Intake:
    """Under `alone` no update is too long: it reaches nobody else."""
    alone, settings = config.method == "alone", config.aggregate
    seats = {
        m.site: Seat(group_of(m, config), _weight(m, config), "" if m.ledger or alone else m.modality)
        for m in state.members
    }
    judged = settings.model_copy(update={"norm_bound": 0.0}) if alone else settings
    return Intake(state.round + 1, judged, seats, state.records)


def _with_head(before: HeadSum | None, member: Member, own: Weights, config: RunConfig) -> HeadSum:
    """A sum with one more head; exact in float64, so that no order of replies changes a bit."""
    found, patients = before or HeadSum({}, {}, {}), _weight(member, config)
    added = {name: patients * value.double() for name, value in own.items()}
    added = {name: value + found.total[name] if name in found.total else value for name, value in added.items()}
    counts = {**found.patients, member.label_hash: found.patients.get(member.label_hash, 0) + patients}
    return HeadSum({**found.total, **added}, counts, {**found.sites, member.site: patients})


def _weight(member: Member, config: RunConfig) -> int:
    cap = config.federation.patient_cap
    return min(member.num_patients, cap) if cap else member.num_patients


def _apply(offset: Weights, mean: Weights) -> Weights:
    """U = W + mean delta, float64, in the place of the mean; tensors without an update keep their value."""

    def add(pieces: Sequence[Piece]) -> None:
        single, double = scratch(torch.float32), scratch(torch.float64)
        for total, value in pieces:
            total.add_(widened(value, single, double))

    over_pieces(add, [(mean[name], value) for name, value in offset.items() if name in mean])
    return {name: mean[name] if name in mean else value.to(torch.float64) for name, value in (offset | mean).items()}


def _halved(models: Mapping[str, Weights]) -> dict[str, Weights]:
    """Every group's offset on the grid of float16; groups that are the same tensors stay the same tensors."""
    done: dict[tuple[int, ...], Weights] = {}
    for weights in models.values():
        same = tuple(map(id, weights.values()))
        if same not in done:
            done[same] = to_half(weights)
    return {group: done[tuple(map(id, weights.values()))] for group, weights in models.items()}


def _complete(models: dict[str, Weights]) -> dict[str, Weights]:
    """Every group with every tensor of the backbone, in one order: a group that nobody has moved yet has offset zero.

    Heads belong to their label maps and stay with the groups that hold them, after the backbone, sorted.
    """
    shapes = {name: value for weights in models.values() for name, value in weights.items()}
    backbone = [name for name in shapes if not name.startswith("head.")]
    complete: dict[str, Weights] = {}
    for group, weights in models.items():
        heads = sorted(name for name in weights if name.startswith("head."))
        complete[group] = {name: weights[name] if name in weights else zeros_like(shapes[name]) for name in backbone}
        complete[group] |= {name: weights[name] for name in heads}
    return complete


def _matrix(state: CoordinatorState, config: RunConfig, present: Iterable[str]) -> Matrix:
    """The round's blend matrix; the row of an absent group is the identity's."""
    patients = dict.fromkeys(state.offsets, 0)
    for member in state.members:
        patients[group_of(member, config)] += _weight(member, config)
    settings, groups = _blend_settings(config), list(state.offsets)
    if config.method == "alone":
        return np.eye(len(groups))
    matrix = blend_matrix(settings, patients, round=state.round + 1, rounds=config.federation.rounds)
    kept = [index for index, group in enumerate(groups) if group not in set(present)]
    matrix[kept] = np.eye(len(groups))[kept]
    return matrix


def _blend_settings(config: RunConfig) -> BlendConfig:
    """FedBN is the blend with size-weighted rows in every round."""
    if config.method == "fedbn":
        return BlendConfig(policy="size", warmup=0, settle=0)
    return config.blend
