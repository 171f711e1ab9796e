"""The limits of an approval, checked again by the approved code itself, with a separate record.

``HOME/memory/<federation>/used-<settings>.json`` counts as the egress filter's ``HOME/used/`` does, so that a fault in
one of them does not open the other.
"""

import hashlib
import json

from flwr.app import RecordDict

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import SiteFolder, federation_key
from cdtl_core.config.settings import flatten, load_site
from cdtl_core.errors import PrivacyError
from cdtl_core.federation.limits import Order, admitted, load_used, order_digest, save_used

__all__ = ["check_order"]


def check_order(folder: SiteFolder, config: RunConfig, content: RecordDict, order: tuple[str, int, str]) -> None:
    """Refuse an order that the site has not approved; call it before any of it is used.

    Args:
        folder: The site's folder.
        config: The run; without ``limits.initial_weights_hash``, as in simulations, nothing is counted.
        content: The message.
        order: Its type, round and hash of the initial weights, as decoded.

    Raises:
        PrivacyError: It exceeds the approval, or names initial weights that the site does not accept.
    """
    kind, round, initial_weights_hash = order
    accepted = load_site(folder.settings).publish.initial_weights_hash
    if accepted not in {None, initial_weights_hash}:
        raise PrivacyError(
            f"the order names the initial weights {initial_weights_hash[:12]}, "
            "publish.initial_weights_hash in site.toml accepts "
            f"{str(accepted)[:12]} only: it is refused."
        )
    rounds = config.federation.rounds
    if not 1 <= round <= rounds + (kind == "evaluate"):
        raise PrivacyError(f"the order ({kind}) is for round {round} of {rounds}: it is refused.")
    if not config.limits.initial_weights_hash:
        return
    digest = order_digest({name: record.object_id for name, record in content.items()})
    settings = hashlib.sha256(json.dumps(flatten(config), sort_keys=True).encode()).hexdigest()[:16]
    path = folder.memory(federation_key(config.name, config.method), f"used-{settings}.json")
    before = load_used(path)
    after = admitted(
        before, Order(kind=kind, round=round, initial_weights_hash=initial_weights_hash, digest=digest), config
    )
    if after != before:
        save_used(path, after)
