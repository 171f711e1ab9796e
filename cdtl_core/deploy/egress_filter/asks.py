"""Messages that the SuperNode has and has not answered; kept on disk for the next filter."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Error, RecordDict
from flwr.app.message.message import Message, make_message
from flwr.app.metadata import Metadata
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cdtl_core.config.schema import Sha256
from cdtl_core.errors import CheckpointError, PrivacyError
from cdtl_core.federation.limits import Order
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import get_logger

__all__ = ["Ask", "Asks"]

_log = get_logger("cdtl.filter")


class Ask(BaseModel):
    """A message of the coordinator: Flower's metadata, with `group_id` as the round (0 before the first).

    `approval` is the id of the approval under which it was handed over. `order` is its content; None for a message that
    is not counted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    run_id: int
    message_id: Sha256
    src_node_id: int
    dst_node_id: int
    group_id: str = Field(pattern=r"^[0-9]{1,5}$")
    message_type: str = Field(pattern=r"^[a-z]{1,16}(\.[a-z_]{1,32})?$")
    created_at: float
    ttl: float
    src_task_id: int | None = None
    dst_task_id: int | None = None
    approval: str = ""
    order: Order | None = None

    @classmethod
    def of(cls, metadata: Any) -> "Ask":
        """Build from the metadata of a message as the coordinator sends it.

        Raises:
            PrivacyError: A field is not what Flower and cdtl send.
        """
        tasks = {name: getattr(metadata, name) for name in ("src_task_id", "dst_task_id") if metadata.HasField(name)}
        plain = ("run_id", "message_id", "src_node_id", "dst_node_id", "group_id", "message_type", "created_at", "ttl")
        try:
            return cls(**{name: getattr(metadata, name) for name in plain}, **tasks)
        except ValidationError as error:
            field = error.errors()[0]["loc"][0]
            raise PrivacyError(f"{field} of a message is not what cdtl sends: the site does not get it.") from None

    def reply(self, content: RecordDict | tuple[int, str]) -> Message:
        """Return the reply with this content or error; nothing of the site's app is in its metadata.

        It has the time of the question, so it does not reveal how long the site took.
        """
        metadata = Metadata(
            run_id=self.run_id,
            message_id="",
            src_node_id=self.dst_node_id,
            dst_node_id=self.src_node_id,
            reply_to_message_id=self.message_id,
            group_id=self.group_id,
            created_at=self.created_at,
            ttl=self.ttl,
            message_type=self.message_type,
            src_task_id=self.dst_task_id,
            dst_task_id=self.src_task_id,
        )
        metadata.delivered_at = ""
        if isinstance(content, RecordDict):
            message = make_message(metadata, content=content)
        else:
            message = make_message(metadata, error=Error(*content))
        metadata.__dict__["_message_id"] = message.object_id
        return message

    def expired(self, now: float) -> bool:
        """Whether the coordinator no longer accepts a reply."""
        return now >= self.created_at + self.ttl


_ASKS = TypeAdapter(list[Ask])


class Asks:
    """Open messages by id: those that the SuperNode has, and those with a reply in delivery."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home / "asks.json", clock
        self._waiting: dict[str, Ask] = {}
        self._leaving: dict[str, Ask] = {}
        self._unsaved = False

    def recall(self) -> None:
        """Restore the messages that an earlier filter handed over and that have no answer."""
        try:
            asks = _ASKS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            _log.error(
                "%s cannot be read (%s): the coordinator will wait for open replies until its time limit.",
                self._path, type(error).__name__,
            )  # fmt: skip
            return
        self._waiting |= {ask.message_id: ask for ask in asks if not ask.expired(self._clock())}

    def waiting(self) -> tuple[Ask, ...]:
        """Return the messages that the SuperNode has not answered."""
        return tuple(self._waiting.values())

    def open(self) -> bool:
        """Whether any message waits for its reply or a reply for its delivery."""
        return bool(self._waiting or self._leaving)

    def add(self, ask: Ask) -> None:
        """Record a message that is about to be handed over."""
        self._waiting[ask.message_id] = ask
        self._save()

    def get(self, message_id: str) -> Ask | None:
        """Return the message, if it waits for its reply."""
        return self._waiting.get(message_id)

    def leave(self, ask: Ask) -> bool:
        """Mark the reply as in delivery; False if one already is. On disk it stays open until the reply has arrived."""
        if ask.message_id in self._leaving:
            return False
        self._leaving[ask.message_id] = ask
        self._waiting.pop(ask.message_id, None)
        return True

    def close(self, ask: Ask) -> None:
        """Close a message whose reply arrived or cannot arrive any more."""
        self._leaving.pop(ask.message_id, None)
        self._save()

    def keep(self) -> None:
        """Retry what could not be saved."""
        if self._unsaved:
            self._save()

    def _save(self) -> None:
        """Save the open messages; on a full disk they stay in memory until there is space."""
        now = self._clock()
        self._waiting = {name: ask for name, ask in self._waiting.items() if not ask.expired(now)}
        asks = {**self._waiting, **self._leaving}
        try:
            replace_json(self._path, [ask.model_dump() for ask in asks.values()])
            self._unsaved = False
        except CheckpointError as error:
            self._unsaved = True
            _log.error("open messages are held in memory only: %s", error)
