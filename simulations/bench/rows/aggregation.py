"""Aggregation and blend of 32 sites' updates over one read of them at the bandwidth of memory."""

import time
from collections.abc import Iterator
from functools import partial

from simulations.bench.ratio import alternate, median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_SITES, _MODALITIES = 32, 2


def _measure(session: Session) -> Measured:
    import torch

    from cdtl_core.system.program import num_cores
    from simulations.bench.updates import federation_of

    before = torch.get_num_threads()
    torch.set_num_threads(num_cores())
    try:
        state, updates, config = federation_of("resnet18", sites=_SITES, modalities=_MODALITIES)
        size = sum(value.nbytes for update in updates for value in update.delta.values())
        source = torch.ones(size // 4, dtype=torch.float32)
        target = torch.empty_like(source)
        arms = {"read": partial(_copy, source, target), "step": partial(_step, state, updates, config)}
        found = alternate(arms, session.runs, warm=True)
    finally:
        torch.set_num_threads(before)
    reads = [seconds / 2 for seconds in found["read"]]  # a copy reads and writes
    note = (
        f"{1e3 * middle(found['step']):.0f} ms for {_SITES} sites, {_MODALITIES} modalities, {size / 1e9:.2f} GB of "
        f"float16; one read {1e3 * middle(reads):.0f} ms at {size / middle(reads) / 1e9:.1f} GB/s, "
        f"{torch.get_num_threads()} threads"
    )
    floor = (
        "the inputs are float16, half of the bytes that the bar was set for, and every value is widened to float64, "
        "checked and added: without that the order of replies would change bits of the result. The fastest casts and "
        "sum that were found take 0.65 ns of a core for a value, 11 reads in all (timed at 7753362, beside other "
        "work). A trial with a thread for each core and a loop compiled by numba halved the step, to 16 reads; it "
        "needs 208 MB more and is not built in"
    )
    return Measured(median_ratio(found["step"], reads), note, {"step_s": found["step"], "read_s": reads}, floor)


def _copy(source: object, target: object) -> float:
    began = time.perf_counter()
    target.copy_(source)  # type: ignore[attr-defined]
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
