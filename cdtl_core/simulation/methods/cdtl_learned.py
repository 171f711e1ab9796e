"""CDTL with donors chosen by evidence: the benefit of each donor is measured, not assumed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.config import RunConfig
from cdtl_core.federation.blend import blend, check_blend_matrix
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.site import RoundOrder
from cdtl_core.federation.state import group_of, shares_head
from cdtl_core.federation.transfer import Matrix
from cdtl_core.metrics.metrics import log_loss_by_patient
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.simulation.methods.blended import settings_of, unblended_round
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, begin, deployed, with_offsets
from cdtl_core.training.scoring import score

__all__ = ["Evidence", "Learned", "cdtl_learned", "learned_matrix", "rows_of", "update_cosines", "validation_gains"]

Evidence = Callable[[Federation, Track, Track], Matrix]
_PROBE = 0.5


@dataclass(frozen=True)
class Learned:
    """The run, each round's evidence, and the blend matrices; `transfer_of` them gives the transfer.

    Rows and columns are the modalities in the order of `track.server.offsets`.
    """

    track: Track
    evidence: tuple[Matrix, ...] = ()
    matrices: tuple[Matrix, ...] = ()


def cdtl_learned(evidence: Evidence | None = None) -> Method[Learned]:
    """Return CDTL with annealed own shares, and donors in proportion to the mean of all positive evidence so far.

    A modality without useful donors receives nothing. `blend.donors` limits the choice.

    Args:
        evidence: K K from the states before and after a round's training; None takes `validation_gains`.

    Differs: from CDTL also in that a mean is rounded to float16 before it is blended.
    """
    look, settings = evidence or validation_gains, settings_of("annealed")

    def round(federation: Federation, state: Learned) -> Learned:
        under = federation.under(settings)
        after = unblended_round(under, state.track)
        found = (*state.evidence, look(under, state.track, after))
        allowed = _allowed(under.config, list(after.server.offsets))
        rows = rows_of(np.where(allowed, np.mean(found, axis=0), 0.0))
        matrix = learned_matrix(rows, under.config, round=after.server.round)
        offsets = blend(after.server.offsets, matrix, depth=under.config.blend.depth)
        return Learned(with_offsets(after, offsets), found, (*state.matrices, matrix))

    return Method(
        start=lambda federation: Learned(begin(federation.under(settings))),
        round=round,
        model_of=lambda federation, state, site: deployed(federation.under(settings), state.track, site),
    )


def validation_gains(federation: Federation, _before: Track, after: Track) -> Matrix:
    """Return how much each donor, mixed in half, lowers the log-loss of each modality's validation patients, in nats.

    Each site tests the models with its own norms and returns one number per donor; a modality's sites are weighted by
    their validation patients. A real site would have to send these numbers, which privacy forbids.

    Args:
        federation: The federation.
        after: The state after the round's training.
    """
    groups = list(after.server.offsets)
    gains, weights = np.zeros((len(groups), len(groups))), np.zeros(len(groups))
    for member in after.server.members:
        row = groups.index(group_of(member, federation.config))
        patients = federation.sites[member.site].cohort.folds["val"].num_patients
        losses = [_loss_with(federation, after, member.site, groups[row], donor) for donor in groups]
        gains[row] += patients * (losses[row] - np.array(losses))
        weights[row] += patients
    means: Matrix = gains / np.maximum(weights, 1)[:, None]
    return means


def update_cosines(_federation: Federation, before: Track, after: Track) -> Matrix:
    """Return the cosines K K between the modalities' updates in the round, which the server can compute itself.

    Args:
        before: The state before the round.
        after: The state after the round's training.
    """
    names = _compared(list(after.server.offsets.values()))
    moved = [_flat(before.server.offsets[group], offset, names) for group, offset in after.server.offsets.items()]
    unit = [step / max(float(np.linalg.norm(step)), np.finfo(np.float64).tiny) for step in moved]
    return np.array([[one @ two for two in unit] for one in unit], np.float64)


def rows_of(evidence: Matrix) -> Matrix:
    """Return the donors' shares r K K in proportion to positive evidence; rows sum to 1."""
    positive = np.where(np.eye(len(evidence), dtype=bool), 0.0, np.maximum(evidence, 0.0))
    totals = positive.sum(axis=1, keepdims=True)
    return np.where(totals > 0, positive / np.where(totals > 0, totals, 1.0), np.eye(len(evidence)))


def learned_matrix(rows: Matrix, config: RunConfig, *, round: int) -> Matrix:
    """Return ``A = a I + (1 - a) r``; a rises over the blending rounds from its minimum to 1.

    The minimum is the lowest own share without swapped models, or 1/K. With uniform donors it is the matrix of the
    policy ``annealed``.

    Args:
        rows: Donors' shares, K K.
        config: The run's settings.
        round: Number of the round.
    """
    count, settings, rounds = len(rows), config.blend, config.federation.rounds
    blending = rounds - settings.warmup - settings.settle
    if count == 1 or not settings.warmup < round <= rounds - settings.settle:
        return np.eye(count)
    swap = max(0.0, -float(np.linalg.eigvals(rows).real.min()))
    least = max(1 / count, swap / (1 + swap))
    alpha = least + (1 - least) * (round - settings.warmup - 1) / max(blending - 1, 1)
    alpha = min(alpha, 1.0)
    matrix: Matrix = alpha * np.eye(count) + (1 - alpha) * rows
    check_blend_matrix(matrix)
    return matrix


def _allowed(config: RunConfig, groups: list[str]) -> npt.NDArray[np.bool_]:
    named = [config.blend.donors.get(group, tuple(groups)) for group in groups]
    return np.array([[donor in donors for donor in groups] for donors in named])


def _loss_with(federation: Federation, track: Track, name: str, own: str, donor: str) -> float:
    """Return the mean log-loss of a site's validation patients with half of a donor mixed into its modality's model.

    Args:
        federation: The federation.
        track: The run.
        name: The site.
        own: Its modality.
        donor: The donor modality; `own` itself: no mixture.
    """
    offsets, site = track.server.offsets, federation.sites[name]
    half = np.array([[_PROBE, 1 - _PROBE], [0.0, 1.0]])
    offset = offsets[own] if donor == own else blend({own: offsets[own], donor: offsets[donor]}, half)[own]
    member = next(member for member in track.server.members if member.site == name)
    order = RoundOrder(track.server.round + 1, offset, shares_head(track.server, member, federation.config))
    load_into(site.model, candidate(site, federation.initial_weights, track.memories[name], order))
    fold = site.cohort.folds["val"]
    scores = score(site.model, fold, device=site.device, entry=site.entry)
    return float(log_loss_by_patient(fold.labels, scores, fold.patients).mean())


def _compared(offsets: Sequence[Weights]) -> list[str]:
    """Return the names that all groups share: backbones, or heads if only these are trained and labels are the same."""
    first = offsets[0]
    names = [name for name in first if all(name in one and one[name].shape == first[name].shape for one in offsets)]
    return [name for name in names if not name.startswith("head.")] or names


def _flat(before: Weights, after: Weights, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the difference of these tensors as one vector; empty without any, with cosine 0."""
    moved = [after[name].double() - before[name].double() if name in before else after[name].double() for name in names]
    return np.concatenate([value.flatten().numpy() for value in moved]) if moved else np.zeros(1)
