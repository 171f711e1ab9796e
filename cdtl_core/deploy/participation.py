"""A site's service: it keeps filter and node going, together or separately. All connections go outwards."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.coordinator_address import CoordinatorAddress, load_address
from cdtl_core.deploy.egress_filter.status import read_status
from cdtl_core.deploy.expiry import DailyNotices, site_notices
from cdtl_core.deploy.filter import Filter, open_filter, save_tls_key, start_filter
from cdtl_core.deploy.link import LINK, Link
from cdtl_core.deploy.renewing import adopt_key, finish_adoption, is_renewing, knows_next_key
from cdtl_core.deploy.sent import SentReplies
from cdtl_core.deploy.separation import find_separation, note_separation, require_separation
from cdtl_core.deploy.service import CONNECTING_S, Troubles, running_service
from cdtl_core.deploy.supernode import NodeService, link_state, start_node
from cdtl_core.deploy.unit import Unit
from cdtl_core.site.spending import check_one_ledger
from cdtl_core.system.foreign import get_logger, parse_json

__all__ = ["NODE_FOLDER", "ConnectionLog", "Part", "serve_site"]

Part = Literal["all", "filter", "node"]
NODE_FOLDER = "node"
"""Folder of a node's service for its notes and logs, in the site's folder."""
_log = get_logger("cdtl.deploy")
_TICK_S = 0.5
_PAUSE_S = 1.0
_ASKS = "asks.json"
_ASK_S, _SETTLE_S, _PATIENCE_S = 20.0, 5.0, 3600.0
"""Times of a key change: between two questions, until Flower knows the key too, and the longest wait for a quiet
moment.
"""


def serve_site(home: Path, part: Part = "all") -> None:
    """Run the site's service until SIGTERM, SIGINT or SIGHUP.

    Args:
        home: The site's folder.
        part: ``filter`` holds the key and reaches the coordinator, ``node`` runs approved code; both by default.

    Raises:
        ConfigError: The site has no coordinator, or would count each run's privacy separately, or requires a separation
            that is not possible here.
        DataError: Its key is missing.
        CheckpointError: Another service runs on this folder.
    """
    home = home.resolve()
    if part == "node":
        _serve_node(home)
        return
    own = load_site(home / SITE_FILE)
    check_one_ledger(own)
    finish_adoption(home)
    address = load_address(home)
    with running_service(home) as (end, scratch):
        link = Link(scratch / LINK) if part == "all" else Link(home / LINK, 0o640)
        filter = open_filter(home, scratch, address, link)
        unit = Unit("filter", lambda: start_filter(filter, end.is_set), pause_s=_PAUSE_S)
        node = _Node(home, link.folder, scratch, home / "logs") if part == "all" else None
        if node and own.require_separation:
            require_separation(node.separation)
        _log.info("connecting to %s port %d", address.host, address.port)
        try:
            _keep_going(filter, unit, node, address, end)
        finally:
            if node:
                node.stop()
            unit.stop()


def _keep_going(
    filter: Filter, unit: Unit, node: "_Node | None", address: CoordinatorAddress, end: threading.Event
) -> None:
    state = ConnectionLog(filter.home)
    notices = DailyNotices(lambda now: site_notices(filter.home, now))
    renewing, troubles, sent = _Renewing(filter, unit, address), Troubles(filter.home), SentReplies(filter.home)
    while not end.is_set():
        notices.say()
        renewing.keep()
        unit.keep()
        if node and unit.pids:
            node.keep()
        troubles.note(filter=unit.trouble, node=node.trouble if node else "")
        filter.link.copy_from(filter.home)
        state.say()
        sent.say()
        end.wait(_TICK_S)
    _log.info("ending; cdtl site start %s takes part again, and a run continues", filter.home)


def _serve_node(home: Path) -> None:
    with running_service(home / NODE_FOLDER) as (end, scratch):
        node = _Node(home, home / LINK, scratch, home / NODE_FOLDER / "logs")
        troubles = Troubles(home / NODE_FOLDER)
        try:
            while not end.is_set():
                node.keep()
                troubles.note(node=node.trouble)
                end.wait(_TICK_S)
            _log.info("ending")
        finally:
            node.stop()


class _Renewing:
    """Changes to the site's next key once the coordinator knows it, between two messages if possible."""

    def __init__(self, filter: Filter, unit: Unit, address: CoordinatorAddress) -> None:
        self._filter, self._unit, self._address = filter, unit, address
        self._ask_at, self._since = 0.0, 0.0

    def keep(self) -> None:
        """Ask the coordinator from time to time whether it knows the next key, and change over when it does."""
        home, now = self._filter.home, time.monotonic()
        if not is_renewing(home):
            self._since = 0.0
            return
        if not self._since and now >= self._ask_at and read_status(home).get("connected"):
            self._ask_at = now + _ASK_S
            self._since = now if knows_next_key(home, self._address) else 0.0
        if self._since and now - self._since > _SETTLE_S and (not _waits(home) or now - self._since > _PATIENCE_S):
            self._unit.stop()  # it closes its session with the former key
            (home / _ASKS).unlink(
                missing_ok=True
            )  # these belong to the former key's node; the server asks the new one again
            adopt_key(home)
            save_tls_key(home, self._filter.scratch / "client.key")


def _waits(home: Path) -> bool:
    """Whether a message waits for its reply, as far as the filter has recorded."""
    try:
        return bool(parse_json((home / _ASKS).read_bytes()))
    except (OSError, ValueError):
        return False


class _Node:
    """The node's unit; it is restarted with each new filter, because the filter's keys are new."""

    def __init__(self, home: Path, link: Path, scratch: Path, logs: Path) -> None:
        self._link = link
        self.separation = find_separation(home)
        (home / NODE_FOLDER).mkdir(exist_ok=True, mode=0o700)
        note_separation(home, self.separation)
        if self.separation.kind == "none":
            _log.warning("%s", self.separation.text)
        else:
            _log.info("%s", self.separation.text)
        self._service = NodeService(home, link, scratch, logs, self.separation.kind == "sandbox")
        self._unit = Unit("node", lambda: start_node(self._service), pause_s=_PAUSE_S)
        self._filter: tuple[int, int] | None = None

    @property
    def trouble(self) -> str:
        """Why the node does not run; empty if it runs."""
        return self._unit.trouble

    def keep(self) -> None:
        """Start, watch and restart the node.

        Raises:
            ConfigError: The site requires a separation that is not possible here.
        """
        now = link_state(self._link)
        if now != self._filter:
            self._unit.stop()
            self._filter = now
        if now:
            if load_site(self._link / SITE_FILE).require_separation:
                require_separation(self.separation)
            self._unit.keep()

    def stop(self) -> None:
        """End the node."""
        self._unit.stop()


class ConnectionLog:
    """Logs changes in the filter's state.

    A site that has just started is connecting: "not connected" is logged only after the first attempt has had its time,
    or after a connection.

    Args:
        home: The site's folder.
        clock: Seconds since 1970.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._home, self._clock, self._began = home, clock, clock()
        self._link: tuple[bool, object] | None = None
        self._refusal: object = None
        self._pending: object = []

    def say(self) -> None:
        """Log what is new."""
        status = read_status(self._home)
        if (status.get("started") or 0) < self._began:  # of an earlier filter
            return
        self._say_link(status)
        refusal, pending = status.get("last_refusal"), status.get("pending")
        if isinstance(refusal, dict) and refusal != self._refusal:
            _log.warning("the coordinator refused this site: %s", refusal.get("why"))
        if isinstance(pending, list) and pending != self._pending:
            for one in pending:
                _log.warning("a run waits for your approval: look at it with cdtl site approve %s %s", self._home, one)
        self._refusal, self._pending = refusal, pending

    def _say_link(self, status: Mapping[str, Any]) -> None:
        connected, fault = bool(status.get("connected")), status.get("last_fault")
        why = fault.get("why") if isinstance(fault, dict) and not connected else None
        first = self._link is None and self._clock() - self._began < CONNECTING_S
        if (connected, why) == self._link or (first and not connected):
            return
        self._link = connected, why
        _log.info("connected" if connected else f"not connected to the coordinator{f': {why}' if why else ''}")
