"""What a site has answered before: methods that ask it for the same are answered from memory.

A round of a site is a function of its images, its settings, what it kept and what it received. Methods share many of
them: `alone` is the own part of `cdtl`, `fedbn` its joint part, and what a donor trains by itself depends on neither
fold nor size of the receiver.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cdtl_core.data.pixels import Pixels
from cdtl_core.federation.evidence import out_of_fold
from cdtl_core.federation.site import RoundOrder, Site, SiteMemory, SiteUpdate, run_round
from cdtl_core.models.weights import Weights, weights_hash

__all__ = ["Kept"]

Value = TypeVar("Value")
Answer = tuple[SiteMemory, SiteUpdate]
_ROOM = 1 << 30
"""Bytes: eight rounds of five fine-tuned networks, own and joint, take about half of it."""
_SERVERS = {"method", "blend"}
"""Settings that no site reads in a round: what they change is in the order."""


class Kept:
    """Answers of sites, the least recently used of them forgotten first.

    Args:
        room: Most bytes of tensors to keep.
    """

    def __init__(self, room: int = _ROOM) -> None:
        self._room, self._used = room, 0
        self._found: OrderedDict[tuple[Any, ...], tuple[Any, int, Pixels]] = OrderedDict()

    def round(self, site: Site, initial_weights: Weights, memory: SiteMemory, order: RoundOrder) -> Answer:
        """`run_round` with the plain objective. On a hit the site's network is left as it is."""
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
        """`out_of_fold`: it depends on the site's training images and settings alone."""
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
        # The images are held with the answer: no other array can have their place in memory, and so their key.
        self._found[key] = value, size, site.cohort.folds["train"].pixels
        self._used += size
        while self._used > self._room and len(self._found) > 1:
            _, (_, freed, _) = self._found.popitem(last=False)
            self._used -= freed


def _identity(site: Site) -> tuple[Any, ...]:
    """All of a site that its training and its evidence depend on; test patients are not among it."""
    folds = [site.cohort.folds[split] for split in ("train", "val")]
    arrays = [part.tobytes() for fold in folds for part in (fold.rows, fold.labels, fold.patients, fold.identities)]
    settings = site.config.model_dump_json(exclude=_SERVERS)
    return site.name, site.positive, site.cohort.labels, id(folds[0].pixels), settings, *arrays


def _sizes(value: object) -> Iterator[int]:
    if isinstance(value, np.ndarray):
        yield value.nbytes
    elif isinstance(value, tuple):
        memory, update = value
        for weights in (memory.local or {}, update.delta):
            yield from (tensor.nbytes for tensor in weights.values())
