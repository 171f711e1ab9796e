"""Cache of site rounds: methods that ask a site for the same round get the stored answer.

A site's round is a function of its images, its settings, its local tensors and what it received. Methods share many of
them: `alone` is the own part of `cdtl`, `fedbn` its joint part, and a donor's local training depends on neither fold
nor size of the receiver.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Fold
from cdtl_core.data.pixels import Pixels
from cdtl_core.federation.evidence import out_of_fold
from cdtl_core.federation.site import RoundOrder, Site, SiteMemory, SiteUpdate, run_round
from cdtl_core.models.weights import Weights, weights_hash

__all__ = ["Kept"]

Value = TypeVar("Value")
Answer = tuple[SiteMemory, SiteUpdate]
_ROOM = 1 << 30
"""Bytes; eight rounds of five fine-tuned networks, own and joint, take about half of it."""
_SERVERS = {"method", "blend"}
"""Settings that a site does not read in a round; their effect is in the order."""


class Kept:
    """Answers of sites; the least recently used ones are removed first.

    Args:
        room: Largest number of bytes of tensors.
    """

    def __init__(self, room: int = _ROOM) -> None:
        self._room, self._used = room, 0
        self._found: OrderedDict[tuple[Any, ...], tuple[Any, int, Pixels]] = OrderedDict()

    def round(self, site: Site, initial_weights: Weights, memory: SiteMemory, order: RoundOrder) -> Answer:
        """Return `run_round` with the plain objective; on a hit the site's network is unchanged.

        Args:
            site: The site.
            initial_weights: The common start.
            memory: Its local tensors.
            order: The coordinator's order.
        """
        local = None if memory.local is None else weights_hash(memory.local)
        asked = (
            order.round,
            order.share_head,
            weights_hash(order.offset),
            weights_hash(initial_weights),
            memory.round,
            local,
        )
        return self._once(site, ("round", *asked), lambda: run_round(site, initial_weights, memory, order))

    def out_of_fold(self, site: Site) -> npt.NDArray[np.float64]:
        """Return `out_of_fold`, which depends only on the site's training images and settings."""
        return self._once(site, ("out of fold",), lambda: out_of_fold(site))

    def _once(self, site: Site, asked: tuple[Any, ...], compute: Callable[[], Value]) -> Value:
        key = (*asked, *_identity(site))
        if key not in self._found:
            self._keep(key, compute(), site)
        self._found.move_to_end(key)
        value: Value = self._found[key][0]
        return value

    def _keep(self, key: tuple[Any, ...], value: object, site: Site) -> None:
        size = sum(_sizes(value))
        # the images are kept with the answer, so that no other array can get their address and thus their key
        self._found[key] = value, size, site.cohort.folds["train"].pixels
        self._used += size
        while self._used > self._room and len(self._found) > 1:
            _, (_, freed, _) = self._found.popitem(last=False)
            self._used -= freed


def _identity(site: Site) -> tuple[Any, ...]:
    """Return everything that a site's training and evidence depend on, which excludes test patients."""
    folds = [site.cohort.folds[split] for split in ("train", "val")]
    arrays = [part.tobytes() for fold in folds for part in _parts(fold)]
    settings = site.config.model_dump_json(exclude=_SERVERS)
    return site.name, site.positive, site.cohort.labels, id(folds[0].pixels), settings, *arrays


def _parts(fold: Fold) -> tuple[npt.NDArray[np.int64], ...]:
    return fold.rows, fold.labels, fold.patients, fold.identities, fold.lengths


def _sizes(value: object) -> Iterator[int]:
    if isinstance(value, np.ndarray):
        yield value.nbytes
    elif isinstance(value, tuple):
        memory, update = value
        for weights in (memory.local or {}, update.delta):
            yield from (tensor.nbytes for tensor in weights.values())
