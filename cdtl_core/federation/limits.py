"""Limits of an approved run: rounds, final evaluations and runs; anything beyond is refused.

The site's egress filter and the approved code each keep a separate `Used` and judge every order by it. Neither trusts
the coordinator's statement that a run is resumed: an order that continues the site's own record belongs to the same
run, everything else is a further run.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.config import RunConfig
from cdtl_core.errors import PrivacyError
from cdtl_core.system.durable import replace_bytes

__all__ = [
    "MOST_ANSWERS",
    "Limit",
    "Order",
    "OverLimitError",
    "Used",
    "admitted",
    "answered",
    "kept_answer",
    "load_used",
]
__all__ += ["order_digest", "save_used"]

MOST_ANSWERS = 6
"""Largest number of answers to one order: the first, and five more, since the service tries a round five times."""
_MOST_ORDERS = 3
"""Largest number of different orders for one round: after a lost checkpoint, other sites may answer the second time."""
_BACK = 1
"""Largest distance of an order before the last round: the coordinator keeps two checkpoints."""
_INITIAL_WEIGHTS = "initial_weights"

Limit = Literal["round", "evaluation", "weights", "run"]


class OverLimitError(PrivacyError):
    """An order exceeds the approval; `limit` is the exceeded limit."""

    def __init__(self, limit: Limit, sentence: str) -> None:
        super().__init__(sentence)
        self.limit = limit


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Order(_Record):
    """A message that asks a site to train or to evaluate.

    Attributes:
        kind: Flower's message type, ``train`` or ``evaluate``.
        round: From 1; a final evaluation has the number after the last round.
        initial_weights_hash: SHA-256 of the initial weights that it names.
        digest: Digest of its whole content without the initial weights; equal orders have equal digests.
    """

    kind: str
    round: int
    initial_weights_hash: str
    digest: str


class RoundUsed(_Record):
    """One round: digests of the orders for it, and the number of answers."""

    orders: tuple[str, ...] = ()
    answers: int = 0


class EvaluationUsed(_Record):
    """One final evaluation: its order's digest, the number of answers, and the figures of the answer."""

    order: str
    answers: int = 0
    reply: Mapping[str, int | float] | None = None


class Used(_Record):
    """Use of one approval; it only grows.

    Attributes:
        run: How often the run was started; 0 before its first order.
        rounds: The last few rounds of the current run.
        evaluations: Final evaluations of the current run.
    """

    schema_version: Literal[1] = 1
    run: int = 0
    rounds: Mapping[int, RoundUsed] = {}
    evaluations: tuple[EvaluationUsed, ...] = ()

    @property
    def last_round(self) -> int:
        """The highest requested round; 0 without any."""
        return max(self.rounds, default=0)


def admitted(used: Used, order: Order, config: RunConfig) -> Used:
    """Return the record with an order added; save it before the order is processed.

    Args:
        used: The record.
        order: The order.
        config: The approved settings.

    Raises:
        OverLimitError: The order goes beyond what the settings `config` allow.
    """
    wanted = config.limits.initial_weights_hash
    if order.initial_weights_hash != wanted:
        raise OverLimitError(
            "weights",
            f"the order names the initial weights {order.initial_weights_hash[:12]}, "
            f"approved are {wanted[:12] or 'none'}: "
            "it is refused.",
        )
    return _evaluation(used, order, config) if order.kind == "evaluate" else _round(used, order, config)


def answered(used: Used, order: Order, reply: Mapping[str, int | float] | None = None) -> Used:
    """Return the record with an answer added; save it before the answer leaves.

    Args:
        used: The record.
        order: The answered order; it was admitted before.
        reply: The figures of the answer to a final evaluation.
    """
    if order.kind == "evaluate":
        found = [_answered_evaluation(one, reply) if one.order == order.digest else one for one in used.evaluations]
        return used.model_copy(update={"evaluations": tuple(found)})
    before = used.rounds.get(order.round, RoundUsed())
    after = before.model_copy(update={"answers": before.answers + 1})
    return used.model_copy(update={"rounds": {**used.rounds, order.round: after}})


def kept_answer(used: Used, order: Order) -> Mapping[str, int | float] | None:
    """Return the figures of an earlier answer to exactly this final evaluation, if there was one."""
    return next((one.reply for one in used.evaluations if one.order == order.digest), None)


def order_digest(object_ids: Mapping[str, str]) -> str:
    """Return the SHA-256 of a message's records by their Flower object ids, without the initial weights."""
    own = {name: value for name, value in object_ids.items() if name.partition(".")[0] != _INITIAL_WEIGHTS}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def load_used(path: Path) -> Used:
    """Read a record; an empty one if the file does not exist.

    Raises:
        PrivacyError: The file cannot be read, so the remaining approval is unknown.
    """
    try:
        return Used.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Used()
    except (OSError, ValidationError) as error:
        raise PrivacyError(
            f"{path} cannot be read ({type(error).__name__}), so it is not known how much of the approval is used: "
            "restore it from a backup, or ask the coordinator for a new request."
        ) from None


def save_used(path: Path, used: Used) -> None:
    """Write a record, atomically and durably.

    Raises:
        CheckpointError: The disk is full or read-only.
    """
    replace_bytes(path, used.model_dump_json(indent=1).encode())


def _round(used: Used, order: Order, config: RunConfig) -> Used:
    if not 1 <= order.round <= config.federation.rounds:
        raise _beyond(f"round {order.round} of {config.federation.rounds}")
    used = _of_run(used, order, config)
    known = used.rounds.get(order.round, RoundUsed())
    if known.answers >= MOST_ANSWERS:
        raise _beyond(f"round {order.round}, which was answered {known.answers} times")
    if order.digest in known.orders:
        return used
    if len(known.orders) >= _MOST_ORDERS:
        raise _beyond(f"round {order.round} with more than {_MOST_ORDERS} different orders")
    known = known.model_copy(update={"orders": (*known.orders, order.digest)})
    rounds = {number: one for number, one in used.rounds.items() if number >= order.round - _BACK}
    return used.model_copy(update={"rounds": {**rounds, order.round: known}})


def _of_run(used: Used, order: Order, config: RunConfig) -> Used:
    """Return the record of the run that an order belongs to: the current run, or a further one if one is left.

    Args:
        used: The record.
        order: An order to train.
        config: The approved settings.
    """
    if used.run and _continues(used, order):
        return used
    if used.run >= config.limits.runs:
        where = "its final evaluation" if used.evaluations else f"round {used.last_round}"
        raise OverLimitError(
            "run",
            f"the order is for round {order.round}, the run is at {where}, and no further run is approved (limits.runs "
            f"= {config.limits.runs}): ask the coordinator for a new request to start the run again.",
        )
    return Used(run=used.run + 1)


def _continues(used: Used, order: Order) -> bool:
    """Whether an order continues the current run: near its last round, and after its end only an earlier order."""
    if used.evaluations:
        return order.digest in used.rounds.get(order.round, RoundUsed()).orders
    return order.round >= used.last_round - _BACK


def _evaluation(used: Used, order: Order, config: RunConfig) -> Used:
    if order.round != config.federation.rounds + 1:
        raise _beyond(f"a final evaluation after round {order.round - 1} of {config.federation.rounds}")
    known = next((one for one in used.evaluations if one.order == order.digest), None)
    if known is not None and known.answers < MOST_ANSWERS:
        return used
    if known is not None or len(used.evaluations) >= config.limits.evaluations:
        raise OverLimitError(
            "evaluation",
            f"the order is for a further final evaluation, but approved is limits.evaluations = "
            f"{config.limits.evaluations}: it is refused.",
        )
    found = (*used.evaluations, EvaluationUsed(order=order.digest))
    return used.model_copy(update={"run": max(used.run, 1), "evaluations": found})


def _answered_evaluation(before: EvaluationUsed, reply: Mapping[str, int | float] | None) -> EvaluationUsed:
    kept = before.reply if before.reply is not None else reply
    return before.model_copy(update={"answers": before.answers + 1, "reply": kept})


def _beyond(what: str) -> OverLimitError:
    return OverLimitError("round", f"the order is for {what}: it goes beyond what is approved and is refused.")
