"""Local files of a site for a federation between messages, in ``HOME/memory/<federation>/``. None is sent.

::

    round-0003.safetensors            norms and a local head after a round
    own-0003.safetensors              the site's own model
    update-0003-<order>.safetensors   the sent update, with differential privacy

Every function takes this folder first. Of each kind the newest few files are kept.
"""

import hashlib
from pathlib import Path

from cdtl_core.federation.site import OwnModel, RoundOrder, SiteMemory, SiteUpdate
from cdtl_core.models.weights import Weights, load_weights, save_weights, weights_hash

__all__ = ["keep_update", "kept_update", "load_memory", "load_own", "save_memory", "save_own", "was_private"]

_KEPT = 3
_MEMORY, _OWN, _UPDATE = "round-", "own-", "update-"


def load_memory(folder: Path, *, before: int) -> SiteMemory:
    """Return the newest memory of a round before `before`; an empty one if there is none.

    A round that is repeated after a crash starts from the same memory as the first time.
    """
    path = _newest(folder, _MEMORY, before)
    return SiteMemory(_round_of(path, _MEMORY), load_weights(path)) if path else SiteMemory()


def save_memory(folder: Path, memory: SiteMemory) -> None:
    """Store the memory after a round; later ones, from an abandoned try, are removed."""
    save_weights(folder / f"{_MEMORY}{memory.round:04d}.safetensors", memory.local or {})
    _drop_old(folder, _MEMORY, memory.round)


def load_own(folder: Path, *, before: int) -> OwnModel:
    """Return the newest own model of a round before `before`; a new one if there is none."""
    path = _newest(folder, _OWN, before)
    if path is None:
        return OwnModel()
    parts: dict[str, Weights] = {"offset": {}, "local": {}}
    for name, value in load_weights(path).items():
        part, _, rest = name.partition("/")
        parts["offset" if part == "drift" else part][rest] = value  # the name before 0.2
    return OwnModel(parts["offset"], SiteMemory(_round_of(path, _OWN), parts["local"]))


def save_own(folder: Path, own: OwnModel) -> None:
    """Store the own model after a round; later ones are removed."""
    weights = {f"offset/{name}": value for name, value in own.offset.items()}
    weights |= {f"local/{name}": value for name, value in (own.memory.local or {}).items()}
    save_weights(folder / f"{_OWN}{own.memory.round:04d}.safetensors", weights)
    _drop_old(folder, _OWN, own.memory.round)


def keep_update(folder: Path, initial_weights_hash: str, order: RoundOrder, update: SiteUpdate) -> None:
    """Store the update of a round with privacy: a repeated request gets the same update, without further cost.

    Args:
        folder: Folder of the memory.
        initial_weights_hash: SHA-256 of the weights that the order's offset adds to.
        order: The answered order.
        update: The answer.
    """
    path = _update_path(folder, initial_weights_hash, order)
    save_weights(path, dict(update.delta))
    for old in path.parent.glob(f"{_UPDATE}*.safetensors"):
        if old != path:
            old.unlink()


def kept_update(folder: Path, initial_weights_hash: str, order: RoundOrder, site: str) -> SiteUpdate | None:
    """Return the stored update for exactly this order, if it was answered before.

    Args:
        folder: Folder of the memory.
        initial_weights_hash: SHA-256 of the weights that the order's offset adds to.
        order: The order.
        site: Name of the site.
    """
    path = _update_path(folder, initial_weights_hash, order)
    return SiteUpdate(site, order.round, load_weights(path), private=True) if path.exists() else None


def was_private(folder: Path) -> bool:
    """Whether the site has sent an update with differential privacy in this federation."""
    return any(folder.glob(f"{_UPDATE}*"))


def _update_path(folder: Path, initial_weights_hash: str, order: RoundOrder) -> Path:
    asked = f"{initial_weights_hash}/{weights_hash(order.offset)}/{order.share_head}"
    return folder / f"{_UPDATE}{order.round:04d}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.safetensors"


def _newest(folder: Path, kind: str, before: int) -> Path | None:
    """Return the newest file of a round before `before`; none for the first round, even after an earlier try."""
    found = [path for path in _files(folder, kind) if _round_of(path, kind) < before]
    return found[-1] if found and before > 1 else None


def _drop_old(folder: Path, kind: str, round: int) -> None:
    """Remove files of later rounds, and all but the newest few."""
    paths = _files(folder, kind)
    later = [path for path in paths if _round_of(path, kind) > round]
    for path in later + [path for path in paths if path not in later][:-_KEPT]:
        path.unlink()


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}*.safetensors"))


def _round_of(path: Path, kind: str) -> int:
    return int(path.stem.removeprefix(kind))
