"""The blend across modalities: ``W' = A U`` with a row-stochastic matrix A, one per round (and per layer with depth).

Row m holds the shares of modality m: ``A[m, m] = alpha_m``, and ``A[m, k] = (1 - alpha_m) r_mk`` for its donors. With A
= I nothing is shared, A = 1/K is uniform FedAvg over modalities, and A[m, k] = N_k / N is size-weighted FedAvg.

Source: eq. (10), Inbaraj et al. 2025.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import BlendConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.transfer import Matrix, alpha_of_retention
from cdtl_core.models.pieces import Buffers, in_parts, one_thread
from cdtl_core.models.weights import Weights

__all__ = ["blend", "blend_matrix", "blend_tensor", "check_blend_matrix", "check_one_shape", "layers_of"]

_TOLERANCE = 1e-9


def blend_matrix(config: BlendConfig, patients: Mapping[str, int], *, round: int, rounds: int) -> Matrix:
    """Return the matrix A of one round, K x K in the order of `patients`.

    Args:
        config: The policy and its settings.
        patients: Enrolled patients per modality.
        round: From 1.
        rounds: Number of rounds of the run.

    Raises:
        ConfigError: The settings give a matrix that swaps models, or name an unknown donor.
    """
    names, count = list(patients), len(patients)
    blending = rounds - config.warmup - config.settle
    if count == 1 or not config.warmup < round <= rounds - config.settle:
        return np.eye(count)
    if config.policy == "size":
        sizes = np.array([patients[name] for name in names], np.float64)
        return np.tile(sizes / sizes.sum(), (count, 1))
    alphas = _alphas(config, [patients[name] for name in names], position=round - config.warmup, blending=blending)
    matrix = np.zeros((count, count))
    for row, name in enumerate(names):
        donors = _donors(config, name, names)
        if config.policy == "scarce":
            donors = [donor for donor in donors if patients[donor] > patients[name]]
        matrix[row, row] = alphas[row] if donors else 1.0
        weights = {donor: patients[donor] if config.policy == "scarce" else 1 for donor in donors}
        for donor in donors:
            matrix[row, names.index(donor)] = (1 - alphas[row]) * weights[donor] / sum(weights.values())
    check_blend_matrix(matrix)
    return matrix


def check_blend_matrix(matrix: Matrix) -> None:
    """Refuse a matrix that is not row-stochastic or that swaps models between modalities.

    Raises:
        ConfigError: A row does not sum to 1, an entry is negative, or an eigenvalue has a negative real part.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ConfigError(f"the blend matrix has shape {matrix.shape} or is not finite: it must be square and finite.")
    if (matrix < 0).any() or np.abs(matrix.sum(axis=1) - 1).max() > _TOLERANCE:
        raise ConfigError(
            f"the blend matrix is not row-stochastic (rows sum to {np.round(matrix.sum(axis=1), 6).tolist()}): "
            "each row must hold shares that add up to 1."
        )
    lowest = float(np.linalg.eigvals(matrix).real.min())
    if lowest < -_TOLERANCE:
        raise ConfigError(
            f"the blend matrix swaps models between modalities (eigenvalue {lowest:.3f}): raise blend.alpha; "
            "with K modalities and uniform donors it must be at least 1/K."
        )


@one_thread()
def blend(models: Mapping[str, Weights], matrix: Matrix, *, depth: str = "none") -> dict[str, Weights]:
    """Blend the modalities' models tensor by tensor, in float64; the result is float32.

    A tensor that only some modalities hold (a head of their label map) is blended among those, with their rows' shares
    scaled to sum to 1. Modalities with equal rows share one tensor, which must not be written to.

    Args:
        models: Modality to its weights (or offsets: rows sum to 1, so both give the same), in the matrix's order.
        matrix: Row-stochastic, K x K.
        depth: ``none``, or ``share_early`` / ``share_late``: own share grows to 1 towards the last / first layer.
    """
    result: dict[str, Weights] = {name: {} for name in models}
    room = Buffers()
    for tensor, layer in layers_of({name: list(weights) for name, weights in models.items()}, matrix, depth):
        before = {name: weights[tensor] for name, weights in models.items() if tensor in weights}
        for name, value in blend_tensor(before, list(models), layer, room).items():
            result[name][tensor] = value.clone() if value is before[name] else value
    return result


def layers_of(names: Mapping[str, Sequence[str]], matrix: Matrix, depth: str = "none") -> Iterator[tuple[str, Matrix]]:
    """Yield every tensor in order, with the matrix that blends it.

    Args:
        names: Modality to the names of its tensors, in the matrix's order.
        matrix: Row-stochastic, K x K.
        depth: As in `blend`.
    """
    for tensor, position in _positions(names).items():
        yield tensor, _at_depth(matrix, position, depth)


def blend_tensor(
    values: Mapping[str, torch.Tensor], modalities: Sequence[str], matrix: Matrix, room: Buffers
) -> Weights:
    """Return one tensor of each modality that holds it: float32, or the very tensor if it takes nothing from others.

    Args:
        values: Modality to the tensor.
        modalities: All K, in the matrix's order.
        matrix: K x K, of this tensor's layer.
        room: For one part.

    Raises:
        FederationError: The tensors have several shapes.
    """
    columns = [index for index, name in enumerate(modalities) if name in values]
    held = [values[modalities[index]] for index in columns]
    check_one_shape(value.shape for value in held)
    mixed: dict[bytes, torch.Tensor] = {}
    result: Weights = {}
    for index in columns:
        shares, own = matrix[index, columns], values[modalities[index]]
        if _is_own(held, shares, own):
            result[modalities[index]] = own
            continue
        if shares.tobytes() not in mixed:
            mixed[shares.tobytes()] = _mix(held, shares, room)
        result[modalities[index]] = mixed[shares.tobytes()]
    return result


def _alphas(config: BlendConfig, patients: Sequence[int], *, position: int, blending: int) -> list[float]:
    """Return the own share per modality for one blending round.

    Args:
        config: The policy and its settings.
        patients: Enrolled patients per modality.
        position: Number of the blending round, from 1.
        blending: Number of blending rounds.
    """
    count = len(patients)
    if config.policy == "fixed":
        return [config.alpha] * count
    if config.policy == "annealed":
        risen = 1 / count + (1 - 1 / count) * (position - 1) / max(blending - 1, 1)
        return [min(risen, 1.0)] * count  # the last sum may round to more than 1
    wanted = [n / (n + config.half_patients) for n in patients]
    if config.policy == "scarce":
        return wanted
    rhos = np.clip(wanted, config.retention_min, config.retention_max)
    return [alpha_of_retention(float(rho), modalities=count, rounds=blending) for rho in rhos]


def _donors(config: BlendConfig, name: str, names: Sequence[str]) -> list[str]:
    donors = [other for other in config.donors.get(name, names) if other != name]
    unknown = [donor for donor in (*donors, *config.donors) if donor not in names]
    if unknown:
        raise ConfigError(
            f"blend.donors names '{unknown[0]}', but the federation has {', '.join(names)}: use one of these."
        )
    return donors


def _positions(held: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return each tensor's position from the first layer, 0, to the last, 1; heads are last, by name."""
    names = list(dict.fromkeys(tensor for tensors in held.values() for tensor in tensors))
    backbone = [name for name in names if not name.startswith("head.")]
    places = {name: index / max(len(backbone) - 1, 1) for index, name in enumerate(backbone)}
    return {**places, **dict.fromkeys(sorted(set(names) - set(backbone)), 1.0)}


def _at_depth(matrix: Matrix, position: float, depth: str) -> Matrix:
    """Return the matrix of a layer: own share ``a + (1 - a) p^2``.

    Args:
        matrix: The matrix without depth.
        position: p in [0, 1], from first to last layer.
        depth: ``share_early`` or ``share_late``.
    """
    if depth == "none":
        return matrix
    pull = position**2 if depth == "share_early" else (1 - position) ** 2
    return matrix + pull * (np.eye(len(matrix)) - matrix)


def check_one_shape(shapes: Iterable[torch.Size]) -> torch.Size:
    """Return the shape of a tensor at all modalities.

    Raises:
        FederationError: There are several.
    """
    found = sorted(map(tuple, shapes))
    if len(set(found)) > 1:
        several = sorted(set(found))
        raise FederationError(f"a tensor has the shapes {several} at different modalities: use one backbone.")
    return torch.Size(found[0])


def _is_own(values: Sequence[torch.Tensor], shares: npt.NDArray[np.float64], own: torch.Tensor) -> bool:
    """Whether a row takes nothing from others.

    Args:
        values: Tensors of the modalities.
        shares: The row.
        own: Index of the row.
    """
    total = float(shares.sum())
    return total <= 0 or any(share == total and value is own for share, value in zip(shares, values, strict=True))


def _mix(values: Sequence[torch.Tensor], shares: npt.NDArray[np.float64], room: Buffers) -> torch.Tensor:
    total, mixed = float(shares.sum()), torch.empty(values[0].shape, dtype=torch.float32)
    given = [(float(share / total), value) for share, value in zip(shares, values, strict=True) if share]
    for out, first, *others in in_parts(mixed, *(value for _, value in given)):
        result = room.scaled(first, given[0][0])
        for (share, _), part in zip(given[1:], others, strict=True):
            result.add_(room.double(part), alpha=share)
        out.copy_(result)
    return mixed
