"""Incoming replies: the filter takes all objects of a reply from the SuperNode before it sends any of them."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from cdtl_core.deploy.egress_filter.asks import Ask

__all__ = ["Inbox", "Parcel"]


@dataclass
class Parcel:
    """A reply in transfer: the message it answers, the objects it needs, and those that have come.

    `limit` bounds its bytes.
    """

    ask: Ask
    root: str
    missing: set[str]
    limit: int
    objects: dict[str, bytes] = field(default_factory=dict)
    num_bytes: int = 0

    @property
    def complete(self) -> bool:
        """Whether all objects have come."""
        return not self.missing

    @property
    def overfull(self) -> bool:
        """Whether more bytes came than the egress list allows."""
        return self.num_bytes > self.limit


class Inbox:
    """Parcels by session id; one per message, a new one replaces the old."""

    def __init__(self) -> None:
        self._parcels: dict[str, Parcel] = {}

    def open(self, ask: Ask, root: str, objects: Iterable[str], limit: int) -> str:
        """Begin to collect a reply; returns the id of the session.

        Args:
            ask: The message that it answers.
            root: Name of the reply's root object.
            objects: Names of all its objects.
            limit: Most bytes.
        """
        for session in [name for name, parcel in self._parcels.items() if parcel.ask.message_id == ask.message_id]:
            del self._parcels[session]
        session = secrets.token_hex(16)
        self._parcels[session] = Parcel(ask, root, set(objects), limit)
        return session

    def put(self, session: str, object_id: str, content: bytes) -> Parcel | None:
        """Add an object; None if the session is unknown, or the object does not belong to the reply or match its name.

        Args:
            session: Id of the session.
            object_id: SHA-256 of the object.
            content: Its bytes.
        """
        parcel = self._parcels.get(session)
        if parcel is None or hashlib.sha256(content).hexdigest() != object_id:
            return None
        if object_id not in parcel.missing:
            return parcel if object_id in parcel.objects else None
        parcel.num_bytes += len(content)
        parcel.missing.discard(object_id)
        parcel.objects[object_id] = content
        if parcel.complete or parcel.overfull:
            del self._parcels[session]
        return parcel
