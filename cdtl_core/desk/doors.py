"""Who may use a desk: one-time links, sessions in memory, and the token that each form of a session carries."""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cdtl_core.deploy.rate import RateLimit

__all__ = ["LINK_S", "Doors", "Notice", "Session"]

LINK_S = 600.0
_LONGEST_S = 8 * 3600.0  # a working day: then a new link, even if the desk was used all the time
_TOKEN_BYTES = 32
_WRONG_PER_MINUTE = 9  # a token has 256 bits, so this only bounds the noise of a program that tries some
_MOST_SESSIONS = 8


@dataclass(frozen=True)
class Notice:
    """A sentence that the next page shows once."""

    text: str
    kind: Literal["done", "fault"] = "done"


@dataclass
class Session:
    """One browser that used a link.

    Attributes:
        csrf: What every form of this session carries.
        began: When the link was used, on the clock of `Doors`.
        seen: The last request of a person.
        notices: Sentences for the next page.
    """

    csrf: str
    began: float
    seen: float
    notices: list[Notice] = field(default_factory=list)


def _seconds() -> float:
    """Return seconds that are never set back, with those in which the machine slept: a closed laptop is not in use."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Doors:
    """Links and sessions of one desk. Tokens are kept as hashes, so that looking one up does not depend on its bytes.

    Args:
        idle_s: Seconds without a request of a person after which a session ends.
        clock: Seconds, of a clock that is never set back.
    """

    def __init__(self, idle_s: float, *, clock: Callable[[], float] = _seconds) -> None:
        self._idle_s, self._clock = idle_s, clock
        self._links: dict[str, float] = {}
        self._sessions: dict[str, Session] = {}
        self._wrong = RateLimit(_WRONG_PER_MINUTE, clock=clock)
        self._lock = threading.Lock()

    def new_link(self) -> str:
        """Return the token of a new link; an older link that was not used is void."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        with self._lock:
            self._links = {_hash(token): self._clock() + LINK_S}
        return token

    def enter(self, token: str) -> str | int:
        """Exchange a link's token, once, for the key of a new session; else the seconds to wait (0: token unknown)."""
        with self._lock:
            now = self._clock()
            if now < self._links.pop(_hash(token), 0.0):
                key = secrets.token_urlsafe(_TOKEN_BYTES)
                self._keep_living(now, room=_MOST_SESSIONS - 1)
                self._sessions[_hash(key)] = Session(secrets.token_urlsafe(_TOKEN_BYTES), now, now)
                return key
            return self._wrong.wait("")

    def session(self, key: str, *, person: bool = True) -> Session | None:
        """Return the session of a key, unless it has ended.

        Args:
            key: From the cookie.
            person: Whether the request counts as use: pages that bring themselves up to date do not.
        """
        with self._lock:
            now = self._clock()
            self._keep_living(now, room=_MOST_SESSIONS)
            found = self._sessions.get(_hash(key))
            if found is not None and person:
                found.seen = now
            return found

    def leave(self, session: Session) -> None:
        """End a session."""
        with self._lock:
            self._sessions = {key: one for key, one in self._sessions.items() if one is not session}

    def _keep_living(self, now: float, room: int) -> None:
        living = [
            (key, one)
            for key, one in self._sessions.items()
            if now - one.seen < self._idle_s and now - one.began < _LONGEST_S
        ]
        self._sessions = dict(sorted(living, key=lambda pair: pair[1].seen)[-room:])


def same_token(one: str, other: str) -> bool:
    """Compare two tokens in a time that does not depend on their content."""
    return hmac.compare_digest(one.encode(), other.encode())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
