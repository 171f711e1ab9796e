"""Aggregation and blend of 32 sites' updates over one read of them at the bandwidth of memory."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from simulations.bench.ratio import alternate, median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ROWS"]

_SITES, _MODALITIES = 32, 2
_PART = 1 << 18
"""Numbers for a thread at once: 2 MB of float64."""


def _measure(session: Session) -> Measured:
    import torch

    from cdtl_core.system.program import num_cores
    from simulations.bench.updates import federation_of

    before, threads = torch.get_num_threads(), num_cores()
    torch.set_num_threads(threads)
    try:
        state, updates, config = federation_of("resnet18", sites=_SITES, modalities=_MODALITIES)
        size = sum(value.nbytes for update in updates for value in update.delta.values())
        source = torch.ones(size // 4, dtype=torch.float32)
        target = torch.empty_like(source)
        flat = [torch.cat([value.reshape(-1) for value in update.delta.values()]) for update in updates]
        arms = {
            "read": partial(_copy, source, target),
            "sum": partial(_sum, flat),
            "step": partial(_step, state, updates, config),
        }
        found = alternate(arms, session.runs, warm=True)
    finally:
        torch.set_num_threads(before)
    reads = [seconds / 2 for seconds in found["read"]]  # a copy reads and writes
    note = (
        f"{1e3 * middle(found['step']):.0f} ms for {_SITES} sites, {_MODALITIES} modalities, {size / 1e9:.2f} GB of "
        f"float16; one read {1e3 * middle(reads):.0f} ms at {size / middle(reads) / 1e9:.1f} GB/s, "
        f"{threads} threads, {'with' if find_spec('numba') else 'without'} numba"
    )
    floor = (
        "measured in the same turns: to widen each float16 to float64 and add it, which makes a sum that the order of "
        f"replies does not change, takes {1e3 * middle(found['sum']):.0f} ms, {median_ratio(found['sum'], reads):.1f} "
        "reads, without a check, a norm or the blend"
    )
    figures = {"step_s": found["step"], "sum_s": found["sum"], "read_s": reads}
    return Measured(median_ratio(found["step"], reads), note, figures, floor)


def _copy(source: object, target: object) -> float:
    began = time.perf_counter()
    target.copy_(source)  # type: ignore[attr-defined]
    return time.perf_counter() - began


def _sum(updates: "Sequence[Tensor]") -> float:
    """Seconds of the fastest exact sum that was found: in parts that stay in the cores' caches."""
    import torch

    part = _PART * torch.get_num_threads()
    single, (double, total) = torch.empty(part), torch.empty(2, part, dtype=torch.float64)
    began = time.perf_counter()
    for pieces in zip(*(torch.split(update, part) for update in updates), strict=True):
        count = len(pieces[0])
        total[:count].copy_(single[:count].copy_(pieces[0]))
        for piece in pieces[1:]:
            total[:count].add_(double[:count].copy_(single[:count].copy_(piece)))
    return time.perf_counter() - began


def _step(state: object, updates: object, config: object) -> float:
    from cdtl_core.federation.round import step

    began = time.perf_counter()
    step(state, _one_by_one(updates), config)  # type: ignore[arg-type]
    return time.perf_counter() - began


def _one_by_one(updates: object) -> Iterator[object]:
    yield from updates  # type: ignore[misc]


ROWS = (
    Row(
        "aggregation",
        "aggregation + blend, ResNet-18, 32 sites, over one read of the inputs",
        12,
        _measure,
        minutes=0.5,
    ),
)
