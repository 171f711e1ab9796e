"""A site's service: gate, SuperNode and executor, kept going until it is stopped. All connections go outwards."""

import logging
from pathlib import Path

from cdtl_core.deploy.coordinator_address import load_address
from cdtl_core.deploy.gate.status import read_status
from cdtl_core.deploy.service import running_service
from cdtl_core.deploy.supernode import open_supernode, start_gate, start_supernode
from cdtl_core.deploy.unit import Unit
from cdtl_core.settings import SITE_FILE, load_site
from client.spending import check_one_ledger

__all__ = ["serve_site"]

_log = logging.getLogger("cdtl.deploy")
_TICK_S = 0.5
_PAUSE_S = 1.0


def serve_site(home: Path) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP.

    Raises:
        ConfigError: The site knows no coordinator, or would count each run's privacy for itself.
        DataError: Its key is missing.
        CheckpointError: Another service runs on this folder.
    """
    home = home.resolve()
    check_one_ledger(load_site(home / SITE_FILE))
    address = load_address(home)
    with running_service(home) as (end, scratch):
        node = open_supernode(home, scratch, address)
        gate = Unit("gate", lambda: start_gate(node, end.is_set), pause_s=_PAUSE_S)
        flower = Unit("SuperNode", lambda: start_supernode(node, end.is_set), pause_s=_PAUSE_S)
        said: dict[str, object] = {}
        _log.info("connecting to %s port %d", address.host, address.port)
        try:
            while not end.is_set():
                if gate.keep():
                    flower.stop()  # the key with which a gate vouches for approved code ends with it
                if gate.pids:
                    flower.keep()
                said = _say(home, said)
                end.wait(_TICK_S)
            _log.info("ending")
        finally:
            flower.stop()
            gate.stop()


def _say(home: Path, said: dict[str, object]) -> dict[str, object]:
    """Say what has changed in what the gate knows."""
    status = read_status(home)
    now: dict[str, object] = {name: status.get(name) for name in ("connected", "last_refusal", "pending")}
    fault = status.get("last_fault")
    now["why"] = fault.get("why") if isinstance(fault, dict) and not now["connected"] else None
    if any(now[name] != said.get(name) for name in ("connected", "why")) and status:
        why = f": {now['why']}" if now["why"] else ""
        _log.info("connected" if now["connected"] else f"not connected to the coordinator{why}")
    refusal = now["last_refusal"]
    if isinstance(refusal, dict) and refusal != said.get("last_refusal"):
        _log.warning("the coordinator refused this site: %s", refusal.get("why"))
    pending = now["pending"]
    if isinstance(pending, list) and pending != said.get("pending"):
        for one in pending:
            _log.warning("a run waits for your approval: look at it with cdtl site approve %s %s", home, one)
    return now
