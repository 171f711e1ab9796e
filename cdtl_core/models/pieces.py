"""Passes over large tensors in parts that stay in the cores' caches.

Several operations on a part read it from memory once. torch shares each operation among its threads. Adding numbers of
two types takes torch eight times as long as widening a part and adding that.
"""

from collections.abc import Iterator

import torch

__all__ = ["PIECE", "Buffers", "in_parts", "rows_of"]

PIECE = 32752
"""Numbers in a piece, in whole cache lines. The sum of squares of a piece is one float32: another length changes bits
of the norms in a run's records."""
_PIECES = 8
"""Pieces in a part: 0.5 MB of float16, 2 MB of float64. Several threads get twice as many each, since to share an
operation among them takes about as long as to work through one."""
_ZERO = torch.zeros((), dtype=torch.float64)


class Buffers:
    """Room for one part in float32, in float64, and for a sum, used again for each part."""

    def __init__(self) -> None:
        self._single = torch.empty(_length(), dtype=torch.float32)
        self._double = torch.empty(_length(), dtype=torch.float64)
        self._sum = torch.empty(_length(), dtype=torch.float64)

    def single(self, part: torch.Tensor) -> torch.Tensor:
        """Return a float16 or float32 part as float32."""
        return self._single[: part.numel()].view_as(part).copy_(part)

    def double(self, part: torch.Tensor) -> torch.Tensor:
        """Return a part as float64; float16 goes through float32, since torch casts slower in one step."""
        if part.dtype == torch.float64:
            return part
        return self._double[: part.numel()].copy_(self.single(part) if part.dtype == torch.float16 else part)

    def scaled(self, part: torch.Tensor, weight: float) -> torch.Tensor:
        """Return the first term of a sum, float64: 0 + weight times the part, so that no zero is negative."""
        return torch.add(_ZERO, self.double(part), alpha=weight, out=self._sum[: part.numel()])


def in_parts(*values: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the same flat part of each tensor, part by part; all have equally many numbers.

    A contiguous tensor may be written to through its parts.
    """
    yield from zip(*(torch.split(_flat(value), _length()) for value in values), strict=True)


def rows_of(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor as parts of whole pieces, one piece a row, and the rest as one shorter row."""
    flat = _flat(value)
    whole = flat.numel() // PIECE * PIECE
    for part in (*torch.split(flat[:whole], _length()), flat[whole:]):
        if part.numel():
            yield part.view(-1, min(PIECE, part.numel()))


def _length() -> int:
    threads = torch.get_num_threads()
    return PIECE * _PIECES * threads * min(threads, 2)


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(-1)
