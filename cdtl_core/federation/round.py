"""One round of the algorithm: aggregate within each group, blend across groups, and report.

::

    screening = open_screening(state, config)
    for update in updates:
        screen(screening, update)
    state, report = close_round(state, screening, config)

`step` is these lines for updates that are all there. The coordinator writes them out around its messages, in
`cdtl_core.coordinator.run`. Rows of a blend matrix sum to 1, hence blending offsets is blending weights.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cdtl_core.config import BlendConfig, RunConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.aggregate import FEWEST, Mean, add_waiting, mean_in_parts
from cdtl_core.federation.blend import blend_matrix, blend_tensor, check_one_shape, layers_of
from cdtl_core.federation.screening import Screening, close_screening, open_screening, screen
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, HeadSum, Member, group_of, weight_of
from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.pieces import Buffers, in_parts, one_thread
from cdtl_core.models.weights import Weights, check_finite

__all__ = ["RoundReport", "close_round", "robust_notes", "round_matrices", "step"]


@dataclass(frozen=True)
class RoundReport:
    """Report of one round.

    Attributes:
        round: Its number, from 1.
        updated: Sites whose updates count.
        spent: Sites whose privacy budget is used up: they send nothing more and still receive the model.
        absent: Sites that were not asked or did not answer.
        refused: Site to why its update does not count.
        metrics: Site to the figures of its training and validation.
        groups: In the order of the rows of `matrix`.
        matrix: The blend matrix.
    """

    round: int
    updated: tuple[str, ...]
    spent: tuple[str, ...]
    absent: tuple[str, ...]
    refused: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float]]
    groups: tuple[str, ...]
    matrix: Matrix


def step(
    state: CoordinatorState, updates: Iterable[SiteUpdate], config: RunConfig
) -> tuple[CoordinatorState, RoundReport]:
    """Run one whole round. Updates are consumed one at a time, in any order.

    Args:
        state: After the previous round.
        updates: Answers of the sites.
        config: The run's settings.

    Raises:
        FederationError: No update counts, and no site's privacy budget is spent.
    """
    screening = open_screening(state, config)
    for update in updates:
        screen(screening, update)
    after, report = close_round(state, screening, config)
    if not report.updated and not report.spent:
        reasons = "; ".join(f"{site}: {why}" for site, why in report.refused.items())
        raise FederationError(f"round {report.round} brought no usable update: {reasons or 'no site sent one'}.")
    return after, report


def close_round(
    state: CoordinatorState, screening: Screening, config: RunConfig
) -> tuple[CoordinatorState, RoundReport]:
    """Aggregate the accepted updates, blend the groups, and report.

    A group without an update keeps its weights and still gives them to others. A group whose sites have spent their
    privacy budgets still receives. The caller decides whether the updates are enough for a round.

    Args:
        state: After the previous round.
        screening: The received updates; it is used up.
        config: The run's settings.
    """
    means = {group: Mean() for group in state.offsets} | close_screening(screening)
    for mean in means.values():
        add_waiting(mean)
    matrix = _matrix(state, config, present=_present(state, screening, config))
    offsets = _next_offsets(state.offsets, means, matrix, _blend_settings(config).depth)
    after = replace(
        state,
        round=screening.round,
        offsets=offsets,
        records={**state.records, **screening.records},
        heads=_head_sums(state, screening, config),
    )
    metrics, refused, spent = screening.metrics, screening.refused, screening.spent
    report = RoundReport(
        round=screening.round,
        updated=tuple(m.site for m in state.members if m.site in metrics),
        spent=tuple(m.site for m in state.members if m.site in spent),
        absent=tuple(m.site for m in state.members if m.site not in {*metrics, *refused, *spent}),
        refused=refused,
        metrics={m.site: metrics[m.site] for m in state.members if m.site in metrics},
        groups=tuple(state.offsets),
        matrix=matrix,
    )
    return after, report


def round_matrices(state: CoordinatorState, config: RunConfig) -> list[Matrix]:
    """Return the checked blend matrix of every round of a run without absent sites.

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


def robust_notes(state: CoordinatorState, config: RunConfig) -> list[str]:
    """Return a sentence for each modality that has too few sites for `aggregate.robust`.

    Raises:
        ConfigError: All modalities have too few.
    """
    rule = config.aggregate.robust
    if rule == "none" or config.method == "alone":
        return []
    groups = [group_of(member, config) for member in state.members]
    few = {group: groups.count(group) for group in state.offsets if groups.count(group) < FEWEST}
    if len(few) == len(state.offsets):
        raise ConfigError(
            f"aggregate.robust = '{rule}' needs {FEWEST} sites of a modality, but no modality has that many: use "
            "'none'."
        )
    return [
        f"{group} has {n} of the {FEWEST} sites that '{rule}' needs: their plain mean is used."
        for group, n in few.items()
    ]


def _present(state: CoordinatorState, screening: Screening, config: RunConfig) -> set[str]:
    """Return the groups that take part in the blend: a site sent an accepted update, or has spent its budget.

    Args:
        state: After the previous round.
        screening: The received updates.
        config: The run's settings.
    """
    here = screening.metrics.keys() | screening.spent
    return {group_of(member, config) for member in state.members if member.site in here}


def _head_sums(state: CoordinatorState, screening: Screening, config: RunConfig) -> dict[str, HeadSum]:
    """Return modality to the sum of the own heads of its sites, in the order of the members.

    Args:
        state: After the previous round.
        screening: The received updates.
        config: The run's settings.
    """
    sums: dict[str, HeadSum] = {}
    for member in state.members:
        if own := screening.heads.get(member.site):
            sums[member.modality] = _with_head(sums.get(member.modality), member, own, config)
    return sums


def _with_head(before: HeadSum | None, member: Member, own: Weights, config: RunConfig) -> HeadSum:
    """Return a sum with one more head; exact in float64, so the order of replies does not change a bit."""
    found, patients = before or HeadSum({}, {}, {}), weight_of(member, config)
    added = {name: patients * value.double() for name, value in own.items()}
    added = {name: value + found.total[name] if name in found.total else value for name, value in added.items()}
    counts = {**found.patients, member.label_hash: found.patients.get(member.label_hash, 0) + patients}
    return HeadSum({**found.total, **added}, counts, {**found.sites, member.site: patients})


@one_thread()
def _next_offsets(
    offsets: Mapping[str, Weights], means: Mapping[str, Mean], matrix: Matrix, depth: str
) -> dict[str, Weights]:
    """Return every group's offset after a round, float16: tensor by tensor, so that each part of it is read once.

    Groups that share tensors continue to share them.

    Args:
        offsets: Group to its offset before the round, in the matrix's order.
        means: Group to the mean of its accepted updates; used up.
        matrix: The blend matrix.
        depth: As in `blend`.
    """
    after: dict[str, Weights] = {group: {} for group in offsets}
    held = [{name: value.shape for name, value in offset.items()} for offset in offsets.values()]
    held += [mean.shapes for mean in means.values()]
    room = _Room(Buffers(), {group: Buffers() for group in offsets}, {group: Buffers() for group in offsets})
    names = _names({group: offsets[group] | means[group].shapes for group in offsets})
    for tensor, layer in layers_of(names, matrix, depth):
        shape = check_one_shape(shapes[tensor] for shapes in held if tensor in shapes)
        groups = [group for group in offsets if tensor in names[group]]
        moved = _moved_in_parts(tensor, shape, {group: (offsets[group], means[group]) for group in groups}, room)
        blended = _blended(moved, shape, list(offsets), layer, room.blend)
        for value in {id(value): value for value in blended.values()}.values():
            check_finite({tensor: value}, "the rounded difference")
        for group, value in blended.items():
            after[group][tensor] = value
    same = {tuple(map(id, weights.values())): weights for weights in after.values()}
    return {group: same[tuple(map(id, weights.values()))] for group, weights in after.items()}


@dataclass(frozen=True)
class _Room:
    """Room for one part of a tensor.

    Attributes:
        blend: Of the blend.
        means: Group to that of its mean.
        offsets: Group to that of its offset before the round.
    """

    blend: Buffers
    means: Mapping[str, Buffers]
    offsets: Mapping[str, Buffers]


def _moved_in_parts(
    tensor: str, shape: torch.Size, held: Mapping[str, tuple[Weights, Mean]], room: _Room
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the flat parts of U = W + mean update of each group, float64; without an update it is W, or zero.

    Args:
        tensor: Its name.
        shape: Its shape.
        held: Group to its offset before the round, and its mean update.
        room: Holds each part until the next one.
    """
    found = {group: offset[tensor] for group, (offset, _) in held.items() if tensor in offset}
    nothing = torch.zeros(shape if len(found) < len(held) else 0, dtype=torch.float16)
    before = {group: found.get(group, nothing) for group in held}
    firsts = {id(value): group for group, value in reversed(before.items())}  # groups may hold the same tensor
    offsets = in_parts(*(before[group] for group in firsts.values()))
    means = {
        group: mean_in_parts(mean, tensor, room.means[group])
        for group, (_, mean) in held.items()
        if tensor in mean.shapes
    }
    for parts in offsets:
        wide = {
            first: room.offsets[group].double(part) for (first, group), part in zip(firsts.items(), parts, strict=True)
        }
        moved = {group: wide[id(value)] for group, value in before.items()}
        yield moved | {
            group: next(mean).add_(moved[group]) if group in found else next(mean) for group, mean in means.items()
        }


def _blended(
    moved: Iterable[Mapping[str, torch.Tensor]], shape: torch.Size, groups: Sequence[str], layer: Matrix, room: Buffers
) -> Weights:
    """Return group to a tensor after the blend, rounded to float16.

    Args:
        moved: Group to the tensor before the blend, part by part.
        shape: Of the tensor.
        groups: All groups, in the matrix's order.
        layer: The blend matrix of the tensor.
        room: Of the blend.
    """
    after: Weights = {}
    done = 0
    for parts in moved:
        blended = blend_tensor(parts, groups, layer, room)
        for group, value in blended.items():
            twin = next(other for other, same in blended.items() if same is value)
            if group not in after:
                after[group] = after[twin] if twin in after else torch.empty(shape, dtype=torch.float16)
            if twin == group:
                after[group].view(-1)[done : done + value.numel()].copy_(value)
        done += next(iter(parts.values())).numel()
    return after


def _names(held: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return group to the names of its tensors after the round, in one order.

    Every group has every tensor of the backbone. Heads belong to their label maps and stay with the groups that hold
    them, after the backbone, sorted.
    """
    backbone = list(dict.fromkeys(n for names in held.values() for n in names if not n.startswith("head.")))
    return {group: backbone + sorted(n for n in names if n.startswith("head.")) for group, names in held.items()}


def _matrix(state: CoordinatorState, config: RunConfig, present: Iterable[str]) -> Matrix:
    """Return the round's blend matrix; the row of an absent group is the identity's."""
    patients = dict.fromkeys(state.offsets, 0)
    for member in state.members:
        patients[group_of(member, config)] += weight_of(member, config)
    settings, groups = _blend_settings(config), list(state.offsets)
    if config.method == "alone":
        return np.eye(len(groups))
    matrix = blend_matrix(settings, patients, round=state.round + 1, rounds=config.federation.rounds)
    kept = [index for index, group in enumerate(groups) if group not in set(present)]
    matrix[kept] = np.eye(len(groups))[kept]
    return matrix


def _blend_settings(config: RunConfig) -> BlendConfig:
    """Return the blend settings; FedBN is the blend with size-weighted rows in every round."""
    if config.method == "fedbn":
        return BlendConfig(policy="size", warmup=0, settle=0)
    return config.blend
