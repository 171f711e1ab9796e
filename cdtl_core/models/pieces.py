"""Passes over large tensors in parts that stay in a core's cache.

Several operations on a part read it from memory once. Each takes a twentieth of a millisecond, and to share it among
torch's threads takes as long: in one thread a round of the server took half the time of two. Adding numbers of two
types takes torch eight times as long as widening a part and adding that.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["PIECE", "Buffers", "half_of_difference", "in_parts", "one_thread", "rows_of"]

PIECE = 32752
"""Numbers in a piece, in whole cache lines. The sum of squares of a piece is one float32: another length changes bits
of the norms in a run's records."""
_PART = 4 * PIECE
"""Numbers in a part: 0.25 MB of float16, 1 MB of float64."""
_ZERO = torch.zeros((), dtype=torch.float64)


class Buffers:
    """Room for one part in float32, in float64, and for a sum, used again for each part."""

    def __init__(self) -> None:
        self._single = torch.empty(_PART, dtype=torch.float32)
        self._double = torch.empty(_PART, dtype=torch.float64)
        self._sum = torch.empty(_PART, dtype=torch.float64)

    def single(self, part: torch.Tensor) -> torch.Tensor:
        """Return a float16 or float32 part as float32."""
        return self._single[: part.numel()].view_as(part).copy_(part)

    def double(self, part: torch.Tensor) -> torch.Tensor:
        """Return a part as float64; float16 goes through float32, since torch casts slower in one step."""
        if part.dtype == torch.float64:
            return part
        return self._double[: part.numel()].copy_(self.single(part) if part.dtype == torch.float16 else part)

    def divided(self, part: torch.Tensor, divisor: float) -> torch.Tensor:
        """Return a float64 part divided by a number; it may be the result of `scaled`, which is used up."""
        return torch.div(part, divisor, out=self._sum[: part.numel()])

    def scaled(self, part: torch.Tensor, weight: float) -> torch.Tensor:
        """Return the first term of a sum, float64: 0 + weight times the part, so that no zero is negative."""
        return torch.add(_ZERO, self.double(part), alpha=weight, out=self._sum[: part.numel()])


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in this thread alone, in a block or as a decorator of a function.

    New threads get this setting, too: use it from one thread of Python at a time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_parts(*values: torch.Tensor, size: int = _PART) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the same flat part of each tensor, part by part.

    Args:
        values: They have equally many numbers. A contiguous tensor may be written to through its parts.
        size: Numbers in a part.
    """
    yield from zip(*(torch.split(_flat(value), size) for value in values), strict=True)


def half_of_difference(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return ``value - other`` rounded to float16, contiguous.

    Args:
        value: Float32.
        other: Float32, of the same shape.
    """
    return (value - other).to(torch.float16).contiguous()


def rows_of(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor as parts of whole pieces, one piece a row, and the rest as one shorter row."""
    flat = _flat(value)
    whole = flat.numel() // PIECE * PIECE
    for part in (*torch.split(flat[:whole], _PART), flat[whole:]):
        if part.numel():
            yield part.view(-1, min(PIECE, part.numel()))


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(-1)
