"""Messages that the SuperNode has and that wait for their reply; kept on disk, so that a new filter answers them."""

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
    """What the coordinator asked: Flower's metadata of its message; `group_id` is the round, 0 before the first.

    `approval` is the id of the approval under which it was handed over; `order` is what it holds, None for a message
    that is not counted.
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
        """From the metadata of a message as the coordinator sends it.

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
        """The reply to it, or an error of a code and a sentence; nothing of the site's app is in its metadata.

        It bears the time of the question, so it does not say how long the site took.
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
        """Whether the coordinator would not take a reply any more."""
        return now >= self.created_at + self.ttl


_ASKS = TypeAdapter(list[Ask])


class Asks:
    """Open messages by id: those that the SuperNode has, and those whose reply is on its way."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home / "asks.json", clock
        self._waiting: dict[str, Ask] = {}
        self._leaving: dict[str, Ask] = {}
        self._unsaved = False

    def recall(self) -> None:
        """Take up the messages that an earlier filter handed over and nobody has answered."""
        try:
            asks = _ASKS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            _log.error(
                "%s cannot be read (%s): the coordinator waits in vain for replies that were open.",
                self._path, type(error).__name__,
            )  # fmt: skip
            return
        self._waiting |= {ask.message_id: ask for ask in asks if not ask.expired(self._clock())}

    def waiting(self) -> tuple[Ask, ...]:
        """Messages that the SuperNode has and has not answered."""
        return tuple(self._waiting.values())

    def open(self) -> bool:
        """Whether a message waits for its reply or a reply for its delivery."""
        return bool(self._waiting or self._leaving)

    def add(self, ask: Ask) -> None:
        """The message is about to be handed over."""
        self._waiting[ask.message_id] = ask
        self._save()

    def get(self, message_id: str) -> Ask | None:
        """The message, if it waits for its reply."""
        return self._waiting.get(message_id)

    def leave(self, ask: Ask) -> bool:
        """Its reply is on its way; False if one already is. On the disk it stays open until the reply has arrived."""
        if ask.message_id in self._leaving:
            return False
        self._leaving[ask.message_id] = ask
        self._waiting.pop(ask.message_id, None)
        return True

    def close(self, ask: Ask) -> None:
        """Its reply arrived, or cannot arrive any more."""
        self._leaving.pop(ask.message_id, None)
        self._save()

    def keep(self) -> None:
        """Try again to save what could not be saved."""
        if self._unsaved:
            self._save()

    def _save(self) -> None:
        """A message is not refused because the disk is full: it is held in memory, and saved when there is room."""
        now = self._clock()
        self._waiting = {name: ask for name, ask in self._waiting.items() if not ask.expired(now)}
        asks = {**self._waiting, **self._leaving}
        try:
            replace_json(self._path, [ask.model_dump() for ask in asks.values()])
            self._unsaved = False
        except CheckpointError as error:
            self._unsaved = True
            _log.error("open messages are held in memory only: %s", error)
