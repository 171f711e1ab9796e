"""Messages that the gateway handed to each site: only these can be answered, and only their objects can be pulled.

The SuperLink trusts every admitted node with every message; the gateway does not. It stores each message that it handed
to a site on disk too, so that a restarted gateway knows what the sites have.
"""

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdtl_core.errors import CheckpointError
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import get_logger

__all__ = ["Deliveries", "Delivery"]

_log = get_logger(__name__)
_KEPT = 64
_NAMES = ("run_id", "message_id", "message_type", "group_id", "src_task_id", "dst_task_id", "expires", "answered")


@dataclass
class Delivery:
    """A message that a site received, and the progress of its reply.

    Attributes:
        run_id: Flower's number of the run.
        message_id: SHA-256 of the message, in hex.
        message_type: Flower's type, for example ``train``.
        group_id: Flower's group, the round.
        src_task_id: The coordinator's task, or None.
        dst_task_id: The node's task, or None.
        expires: Unix time after which no reply is accepted.
        objects: Names of the objects that the site may pull; empty once it has confirmed the message.
        answered: Whether its reply is complete.
        session: The SuperLink's session for the objects of the reply; empty before there is one.
        wanted: Names of the reply's objects that the SuperLink lacks.
        taken: Name to bytes of the reply's objects that came, stored or in transfer.
        pushes: How often a reply was announced.
        num_bytes: Bytes of all pushes that reached the SuperLink, including repeated ones.
    """

    run_id: int
    message_id: str
    message_type: str
    group_id: str
    src_task_id: int | None
    dst_task_id: int | None
    expires: float
    objects: set[str] = field(default_factory=set)
    answered: bool = False
    session: str = ""
    wanted: set[str] = field(default_factory=set)
    taken: dict[str, int] = field(default_factory=dict)
    pushes: int = 0
    num_bytes: int = 0

    @classmethod
    def of(cls, metadata: Any, objects: Iterable[str]) -> "Delivery":
        """Build a delivery from a message's metadata and the names of its objects."""
        return cls(
            run_id=metadata.run_id,
            message_id=metadata.message_id,
            message_type=metadata.message_type,
            group_id=metadata.group_id,
            src_task_id=metadata.src_task_id if metadata.HasField("src_task_id") else None,
            dst_task_id=metadata.dst_task_id if metadata.HasField("dst_task_id") else None,
            expires=metadata.created_at + metadata.ttl,
            objects=set(objects),
        )

    def open(self, session: str, wanted: Iterable[str]) -> None:
        """Open a session for the reply; the SuperLink wants these objects."""
        self.session, self.wanted = session, set(wanted)

    def stored(self, name: str) -> bool:
        """Record an object as stored; True if the reply is complete now."""
        self.wanted.discard(name)
        if not self.wanted:
            self.close()
        return self.answered

    def close(self) -> None:
        """Close the reply; no other reply is accepted."""
        self.answered, self.session = True, ""
        self.wanted, self.taken = set(), {}


class Deliveries:
    """The latest messages of each site, stored in ``FOLDER/flower/delivered/SITE.json``."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder / "flower" / "delivered", clock
        self._of_site: dict[str, dict[str, Delivery]] = {}
        self._saving: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writing = threading.Lock()

    def get(self, site: str, message_id: str) -> Delivery | None:
        """Return a message that the site received and that has not expired; None otherwise."""
        found = self._known(site).get(message_id)
        return found if found and found.expires > self._clock() else None

    def pullable(self, site: str, run_id: int, object_id: str) -> bool:
        """Whether an object belongs to a message that the site received and has not confirmed.

        Args:
            site: The site's name.
            run_id: Flower's number of the run.
            object_id: SHA-256 of the object.
        """
        return any(one.run_id == run_id and object_id in one.objects for one in self._known(site).values())

    def in_run(self, site: str, run_id: int) -> bool:
        """Whether the site received a message of this run."""
        return any(one.run_id == run_id for one in self._known(site).values())

    def of_session(self, site: str, run_id: int, session: str) -> Delivery | None:
        """Return the message whose reply the site pushes in this session; None if there is none.

        Args:
            site: The site's name.
            run_id: Flower's number of the run.
            session: The SuperLink's session.
        """
        if not session:
            return None
        return next((o for o in self._known(site).values() if o.session == session and o.run_id == run_id), None)

    def add(self, site: str, delivery: Delivery) -> None:
        """Record a message that the site is about to receive."""
        known = self._known(site)
        known[delivery.message_id] = delivery
        now = self._clock()
        for old in [one for one in known.values() if one.expires <= now]:
            del known[old.message_id]
        while len(known) > _KEPT:
            del known[next((name for name, one in known.items() if one.answered), next(iter(known)))]

    async def save(self, site: str) -> None:
        """Write the state for a later gateway; on a full disk this is logged and not done."""
        async with self._saving[site]:
            content = [
                {**{name: getattr(one, name) for name in _NAMES}, "objects": sorted(one.objects)}
                for one in self._known(site).values()
            ]
            await asyncio.to_thread(self._write, self._path(site), content)

    def _write(self, path: Path, content: list[dict[str, Any]]) -> None:
        try:
            with self._writing:
                replace_json(path, content)
        except CheckpointError as error:
            _log.warning("%s", error)

    def _known(self, site: str) -> dict[str, Delivery]:
        if site not in self._of_site:
            self._of_site[site] = {one.message_id: one for one in self._load(site)}
        return self._of_site[site]

    def _load(self, site: str) -> list[Delivery]:
        try:
            entries = json.loads(self._path(site).read_text(encoding="utf-8"))
            return [Delivery(**{**entry, "objects": set(entry["objects"])}) for entry in entries]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("%s cannot be read (%s): its messages will be sent again.", self._path(site), error)
            return []

    def _path(self, site: str) -> Path:
        return self._folder / f"{site}.json"
