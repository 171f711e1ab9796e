"""Loops over float16 numbers, compiled by numba: less time than torch takes, the same bits.

torch takes several passes, and its threads wait for each other in each of them. Here each core works through a part in
one pass and one call, without Python's lock. numba is optional (`pip install 'cdtl[fast]'`). Each process that needs
the loops compiles them, in two seconds. No machine code is kept in a folder, where others could change it.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.models.pieces import PIECE, Buffers, one_thread, rows_of
from cdtl_core.system.foreign import get_logger, visible

__all__ = ["Loops", "bits_of", "loops_for", "on_cores", "squares_of"]

_Halves = npt.NDArray[np.uint16]
_Singles = npt.NDArray[np.float32]
_WIDENS = ("AVX2", "AVX512")
"""Processors, as torch names them, that have an instruction which widens float16."""
_WORTH = 1 << 28
"""Numbers in a round, as of 25 sites with ResNet-18. Below that, many rounds would have to pass until the loops have
saved the time that it takes to compile them."""
_VECTOR, _LANES, _BLOCK = 8, 32, 16
"""How torch sums a piece: 32 sums side by side, each of blocks of 16 numbers, which it adds 16 at a time."""
_MOST_REASON = 200  # characters
_log = get_logger("cdtl.server")


@dataclass(frozen=True)
class Loops:
    """The compiled loops.

    Attributes:
        add: Adds four updates to float64 sums, in place, given the bits of each and an array of weights. The product of
            a float16 and a whole number is exact, so only sums are rounded, in the order of the updates, as in torch.
        square: Fills float32 sums of squares of the pieces of a tensor, given its bits; the last may be shorter.
    """

    add: Callable[..., None]
    square: Callable[[_Singles, _Halves], None]


def loops_for(numbers: int) -> Loops | None:
    """Return the loops; None for few numbers or without numba, and with a warning if they would not have torch's bits.

    Args:
        numbers: Numbers that a round adds.
    """
    return _loops() if numbers >= _WORTH else None


def bits_of(part: torch.Tensor) -> _Halves:
    """Return the bits of a contiguous float16 part, flat, without a copy."""
    return part.view(-1).numpy().view(np.uint16)


def squares_of(
    values: Iterable[torch.Tensor], loops: Loops | None, beside: Callable[[], object] = lambda: None
) -> list[float]:
    """Return the sum of squares of each piece of each tensor, in any order; the loops take float16 in whole vectors.

    Squares of float16 are summed in float32, others in float64.

    Args:
        values: The tensors.
        loops: Sum the squares; None: torch does.
        beside: Done by one core, while others sum if there are loops.
    """
    buffers, found, filled = Buffers(), list[float](), list[_Singles]()
    jobs: list[Callable[[], object]] = [beside]
    for value in values:
        half = value.dtype == torch.float16
        if loops and half and value.numel() % PIECE % _VECTOR == 0:
            filled.append(np.empty(-(-value.numel() // PIECE), np.float32))
            jobs.append(partial(loops.square, filled[-1], bits_of(value.contiguous())))
            continue
        with one_thread():
            for rows in rows_of(value):
                wide = buffers.single(rows) if half else rows.to(torch.float64, copy=True)
                found += wide.square_().sum(dim=1).tolist()
    on_cores(jobs)
    return found + [value for sums in filled for value in sums.tolist()]


def on_cores(jobs: Sequence[Callable[[], object]], *, cores: int | None = None) -> None:
    """Do all jobs, in as many threads as torch may use; each thread takes the next job that is left.

    Args:
        jobs: They may be done in any order, and spend their time without Python's lock. In each, torch has one thread.
        cores: Threads at most.
    """
    left, more = iter(list(jobs)), min(cores or torch.get_num_threads(), len(jobs)) - 1

    def work() -> None:
        for job in left:
            job()

    with one_thread(), ThreadPoolExecutor(max(more, 1), "cores") as pool:
        others = [pool.submit(work) for _ in range(more)]
        work()
    for other in others:
        other.result()


@cache
def _loops() -> Loops | None:
    if torch.backends.cpu.get_cpu_capability() not in _WIDENS or importlib.util.find_spec("numba") is None:
        return None
    try:
        loops = Loops(_adding(), _squaring())
        if _sums_as_torch(loops):
            return loops
        why = "this version of torch sums in another order"
    except Exception as error:  # of another numba, numpy or processor: it raises many kinds
        why = f"numba cannot compile them: {visible(str(error), _MOST_REASON)}"
    _log.warning("the server's loops are not used (%s): torch computes instead, slower", why)
    return None


def _adding() -> Any:
    from numba import njit, types

    halves, doubles, widened = _halves(), types.float64[::1], _widening(types.float64)

    @njit(types.void(doubles, halves, halves, halves, halves, doubles), nogil=True)
    def add(sums: Any, one: Any, two: Any, three: Any, four: Any, weights: Any) -> None:
        a, b, c, d = weights[0], weights[1], weights[2], weights[3]
        for i in range(len(sums)):
            sums[i] = sums[i] + a * widened(one[i]) + b * widened(two[i]) + c * widened(three[i]) + d * widened(four[i])

    return add


def _squaring() -> Any:
    """Return `square`, which sums as `cascade_sum` of torch's SumKernel.cpp: four vectors of eight side by side."""
    from numba import njit, types

    halves, widened, blocks = _halves(), _widening(types.float32), _blocks()

    @njit(types.float32(halves), nogil=True)
    def squares(bits: Any) -> Any:
        sums, total = blocks(bits)
        rest, done = np.zeros(_LANES, np.float32), len(bits) // (_LANES * _BLOCK) * _LANES * _BLOCK
        while done + _LANES <= len(bits):
            for lane in range(_LANES):
                value = widened(bits[done + lane])
                rest[lane] += value * value
            done += _LANES
        rest += sums
        rest += total
        for index in range(len(bits) - done):
            value = widened(bits[done + index])
            rest[index % _VECTOR] += value * value
        found = np.float32(0)
        for lane in range(_VECTOR):
            found += rest[lane] + rest[lane + _VECTOR] + rest[lane + 2 * _VECTOR] + rest[lane + 3 * _VECTOR]
        return found

    @njit(types.void(types.float32[::1], halves), nogil=True)
    def square(found: Any, bits: Any) -> None:
        for row in range(len(found)):
            found[row] = squares(bits[row * PIECE : (row + 1) * PIECE])

    return square


def _blocks() -> Any:
    from numba import njit, types

    halves, singles, widened = _halves(), types.float32[::1], _widening(types.float32)

    @njit(types.UniTuple(singles, 2)(halves), nogil=True)
    def blocks(bits: Any) -> Any:
        """Return sums of squares of the last blocks, and of those before, by 16; of the whole blocks of a piece."""
        sums, total = np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32)
        wide, done = np.empty(_LANES * _BLOCK, np.float32), 0
        while done + len(wide) <= len(bits):
            for index in range(len(wide)):
                value = widened(bits[done + index])
                wide[index] = value * value
            for lane in range(_LANES):
                block = np.float32(0)
                for step in range(_BLOCK):
                    block += wide[lane + step * _LANES]
                sums[lane] += block
            done += len(wide)
            if done % (len(wide) * _BLOCK) == 0:
                total += sums
                sums[:] = 0
        return sums, total

    return blocks


def _halves() -> Any:
    from numba import types

    return types.Array(types.uint16, 1, "C", readonly=True)


def _widening(wide: Any) -> Any:
    """Return what makes a float32 or float64 of the bits of a float16, in compiled code."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    target = ir.FloatType() if wide == types.float32 else ir.DoubleType()

    @intrinsic
    def widened(_: Any, bits: Any) -> Any:  # noqa: ARG001  # numba calls it by name
        def code(_: Any, builder: Any, __: Any, given: Any) -> Any:
            return builder.fpext(builder.bitcast(given[0], ir.HalfType()), target)

        return wide(types.uint16), code

    return widened


def _sums_as_torch(loops: Loops) -> bool:
    """Whether torch sums in the loop's order: in another order, the bits of 128 sums of random numbers would differ."""
    rng = np.random.default_rng(0)
    sizes = [64 * PIECE, *rng.integers(1, PIECE // _VECTOR, 64) * _VECTOR]
    values = [torch.from_numpy(rng.standard_normal(size, np.float32)).half() for size in sizes]
    return sorted(squares_of(values, loops)) == sorted(squares_of(values, None))
