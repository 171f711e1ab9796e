"""Splits batches that are too large for a GPU's memory into parts."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch

from cdtl_core.errors import ConfigError
from cdtl_core.system.foreign import get_logger

__all__ = ["Parts", "too_small"]

T = TypeVar("T")
_log = get_logger("cdtl.training")


class Parts:
    """Number of parts that a batch is cut into: one at first, doubled each time the memory is too small for a part.

    Args:
        what: What is computed, for the log.
        least: Smallest number of images or patients in a part.
    """

    def __init__(self, what: str, *, least: int = 1) -> None:
        self.count = 1
        self._what, self._least = what, least

    def run(self, size: int, work: Callable[[Sequence[slice]], T]) -> T:
        """Return what `work` gives for a batch cut into parts; it is called again if the memory is too small.

        Args:
            size: Size of the batch, B.
            work: Takes the parts as slices of 0 ... B. A failed call must not change the result of the next one.

        Raises:
            ConfigError: The memory is too small for the smallest part, or the network cannot be deterministic.
        """
        while True:
            try:
                return work(self.cut(size))
            except torch.OutOfMemoryError:
                pass  # the failed call's tensors are freed when this clause ends
            except RuntimeError as error:
                if "deterministic implementation" not in str(error):
                    raise
                raise ConfigError(
                    f"this network cannot be deterministic on a GPU ({str(error).split(' ')[0]} has no such form): set "
                    "compute.deterministic to false, or device to cpu."
                ) from None
            self._halve(size)

    def cut(self, size: int) -> Sequence[slice]:
        """Return the parts of a batch; their sizes differ by one at most."""
        count = max(1, min(self.count, size // self._least))
        ends = [size * part // count for part in range(count + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def _halve(self, size: int) -> None:
        if len(self.cut(size)) < self.count:
            raise too_small(f"{self._what}, not even {self._least} at a time")
        self.count *= 2
        torch.cuda.empty_cache()
        _log.warning(
            "the GPU's memory is too small for %s of %d at once: batches are now computed in %d parts",
            self._what, size, self.count,
        )  # fmt: skip


def too_small(what: str) -> ConfigError:
    """Return the error for something that is too large for a GPU's memory."""
    return ConfigError(
        f"the GPU's memory is too small for {what}: free memory on the GPU, raise compute.memory_share, or set device "
        "to cpu."
    )
