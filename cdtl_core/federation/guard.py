"""What the server remembers of each site's updates, and why one is not used: length, repetition, quarantine.

Nothing here needs the other updates of a round but their lengths, so updates are still consumed one at a time.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from cdtl_core.models.pieces import Piece, over_pieces, scratch
from cdtl_core.models.weights import Weights

__all__ = ["Record", "accept", "digest_of", "judge", "norm_of", "running_median", "struck"]

_NORMS, _DIGESTS, _FEWEST, _STRIDE = 5, 20, 3, 61


@dataclass(frozen=True)
class Record:
    """A site's past in a run.

    Attributes:
        norms: Lengths of its last accepted updates, the newest last.
        digests: What tells its last accepted updates apart, the newest last; an update of zeros has none.
        strikes: How many of its updates were refused for what they held.
        quarantined: Why none of its updates counts any more; empty if they do.
    """

    norms: tuple[float, ...] = ()
    digests: tuple[str, ...] = ()
    strikes: int = 0
    quarantined: str = ""


def norm_of(delta: Weights) -> float:
    """The Euclidean length of an update over all its tensors; NaN or infinite if, and only if, one of its values is.

    Squares of float16 are summed in float32 within a piece, which they cannot leave; pieces are summed exactly.
    """

    def squares(pieces: Sequence[Piece]) -> list[float]:
        single, double = scratch(torch.float32), scratch(torch.float64)
        found = []
        for (value,) in pieces:
            wide = (single if value.dtype == torch.float16 else double)[: value.numel()].copy_(value)
            found.append(float(wide.square_().sum()))
        return found

    shares = over_pieces(squares, [(value,) for value in delta.values()])
    return math.sqrt(math.fsum(value for share in shares for value in share))


def digest_of(delta: Weights, norm: float) -> str:
    """64 bits that tell an update from another: of its length and every 61st of its values.

    Whoever wants to send an old update as a new one need only change one bit: more than that no digest could see.
    """
    digest = hashlib.sha256(repr(norm).encode())
    for name in sorted(delta):
        digest.update(f"{name}/{tuple(delta[name].shape)}\n".encode())
        digest.update(delta[name].reshape(-1)[::_STRIDE].contiguous().numpy().data)
    return digest.hexdigest()[:16]


def running_median(norms: Mapping[str, Sequence[float]], pools: Mapping[str, str], site: str) -> float | None:
    """The length that a site's update is compared with; None if there is nothing to compare with.

    The median over the last updates of its pool's sites. Where fewer than three sites of the pool are known it is the
    median over all pools: of two nobody can say which one lies. A site without a pool is compared with itself.

    Args:
        norms: Site to lengths of its last updates.
        pools: Site to its modality; empty for a site with differential privacy, whose noise depends on its size.
        site: Whose update is looked at.
    """
    if not pools[site]:
        return median(norms[site]) if norms.get(site) else None
    known = [other for other in norms if norms[other] and pools.get(other)]
    alike = [other for other in known if pools[other] == pools[site]]
    chosen = alike if len(alike) >= _FEWEST else known
    return median(value for other in chosen for value in norms[other]) if len(chosen) >= _FEWEST else None


def judge(record: Record, norm: float, digest: str, reference: float | None, *, bound: float) -> str:
    """Why an update is not used, in a sentence's end; empty if it is.

    Args:
        record: Of its site.
        norm: Its length.
        digest: Of its content.
        reference: What `running_median` gave.
        bound: How many times the reference it may be long; 0: any.
    """
    if norm and digest in record.digests:
        return "its update is one that it sent in an earlier round"
    if bound and reference and norm > bound * reference:
        return f"its update is {norm / reference:.3g} times as long as its modality's usual one, more than {bound:g}"
    return ""


def accept(record: Record, norm: float, digest: str) -> Record:
    """The record with one more update that counted."""
    digests = (*record.digests, digest)[-_DIGESTS:] if norm else record.digests
    return replace(record, norms=(*record.norms, norm)[-_NORMS:], digests=digests)


def struck(record: Record, why: str, *, round: int, strikes: int) -> Record:
    """The record with one more refused update; with `strikes` of them (0: never) the site is quarantined."""
    count = record.strikes + 1
    out = f"quarantined since round {round}: {why}" if strikes and count >= strikes else ""
    return replace(record, strikes=count, quarantined=record.quarantined or out)
