"""Processes large tensors in pieces that fit a core's cache, on threads of our own.

torch shares a call among threads only if it is larger than a piece, which costs more than it gains. Adding numbers of
two types takes torch eight times as long as widening a piece and adding that.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["PIECE", "Piece", "over_pieces", "scratch", "widened"]

PIECE = 32752
"""Numbers in a piece, in whole cache lines; torch shares calls of 32768 or more among its threads."""

_T = TypeVar("_T")
Piece = tuple[torch.Tensor, ...]


def over_pieces(act: Callable[[Sequence[Piece]], _T], rows: Iterable[Sequence[torch.Tensor]]) -> list[_T]:
    """Call `act` with each thread's share of the pieces; returns the results in the order of the pieces.

    Args:
        act: Works on pieces in turn; it may write to tensors that are contiguous.
        rows: Tensors that belong together, of equally many numbers; each is cut into the same flat pieces.
    """
    parts = [part for row in rows for part in zip(*(torch.split(_flat(value), PIECE) for value in row), strict=True)]
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        return [act(parts)] if parts else []
    share = -(-len(parts) // threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(act, [parts[at : at + share] for at in range(0, len(parts), share)]))


def scratch(dtype: torch.dtype) -> torch.Tensor:
    """Return a buffer for one piece."""
    return torch.empty(PIECE, dtype=dtype)


def widened(piece: torch.Tensor, single: torch.Tensor, double: torch.Tensor) -> torch.Tensor:
    """Return a piece as float64.

    Args:
        piece: The numbers.
        single: Buffer; float16 goes through it, since torch casts slower in one step.
        double: Buffer for the result.
    """
    count = piece.numel()
    if piece.dtype == torch.float16:
        piece = single[:count].copy_(piece)
    return double[:count].copy_(piece)


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(-1)
