"""One round of the algorithm: aggregate within each group, blend across groups, and report.

::

    screening = open_screening(state, config)
    for update in updates:
        screen(screening, update)
    state, report = close_round(state, screening, config)

`step` is these lines for updates that are all there. The coordinator writes them out around its messages, in
`cdtl_core.coordinator.run`. Rows of a blend matrix sum to 1, hence blending offsets is blending weights.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cdtl_core.config import BlendConfig, RunConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.aggregate import FEWEST, Mean
from cdtl_core.federation.blend import blend_matrix
from cdtl_core.federation.offsets import next_offsets
from cdtl_core.federation.screening import Screening, close_screening, open_screening, screen
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, HeadSum, Member, group_of, weight_of
from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.weights import Weights

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
    matrix = _matrix(state, config, present=_present(state, screening, config))
    offsets = next_offsets(state.offsets, means, matrix, _blend_settings(config).depth)
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
