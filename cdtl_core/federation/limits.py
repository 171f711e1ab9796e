"""How much of an approved run has been used: rounds, final evaluations and runs; what goes beyond is refused.

The site's egress filter and the approved code each keep a `Used` of their own and judge every order by it. Neither
trusts the coordinator to say that a run is resumed: an order that the site's own record continues is the same run,
everything else is a further one.
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
"""Answers to one order number in one run: the first, and five more, since the service tries a round five times."""
_MOST_ORDERS = 3
"""Different orders of one round: a checkpoint is lost, and other sites answer the second time."""
_BACK = 1
"""Rounds that an order may lie before the last one: the coordinator keeps two checkpoints."""
_INITIAL_WEIGHTS = "initial_weights"

Limit = Literal["round", "evaluation", "weights", "run"]


class OverLimitError(PrivacyError):
    """An order goes beyond what was approved; `limit` says which limit it breaks."""

    def __init__(self, limit: Limit, sentence: str) -> None:
        super().__init__(sentence)
        self.limit = limit


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Order(_Record):
    """What is known of a message that asks a site to train or to evaluate.

    Attributes:
        kind: Flower's message type, ``train`` or ``evaluate``.
        round: From 1; a final evaluation has the number after the last round.
        initial_weights_hash: SHA-256 of the initial weights that it names.
        digest: Of its whole content without the initial weights: the same order has the same digest.
    """

    kind: str
    round: int
    initial_weights_hash: str
    digest: str


class RoundUsed(_Record):
    """One round: digests of the orders that came for it, and how many answers left."""

    orders: tuple[str, ...] = ()
    answers: int = 0


class EvaluationUsed(_Record):
    """One final evaluation: its order's digest, how many answers left, and the numbers of the answer."""

    order: str
    answers: int = 0
    reply: Mapping[str, int | float] | None = None


class Used(_Record):
    """What has been used of one approval; it only ever grows.

    Attributes:
        run: How often the run was begun; 0 before its first order.
        rounds: Of the run under way, the last few rounds.
        evaluations: Of the run under way.
    """

    schema_version: Literal[1] = 1
    run: int = 0
    rounds: Mapping[int, RoundUsed] = {}
    evaluations: tuple[EvaluationUsed, ...] = ()

    @property
    def last_round(self) -> int:
        """The highest round that was asked for; 0 without any."""
        return max(self.rounds, default=0)


def admitted(used: Used, order: Order, config: RunConfig) -> Used:
    """The record with an order in it; call it, and save the result, before the order is worked on.

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
    """The record with an answer in it; save it before the answer leaves.

    Args:
        used: The record.
        order: Which order is answered; it was admitted before.
        reply: The numbers of the answer to a final evaluation.
    """
    if order.kind == "evaluate":
        found = [_answered_evaluation(one, reply) if one.order == order.digest else one for one in used.evaluations]
        return used.model_copy(update={"evaluations": tuple(found)})
    before = used.rounds.get(order.round, RoundUsed())
    after = before.model_copy(update={"answers": before.answers + 1})
    return used.model_copy(update={"rounds": {**used.rounds, order.round: after}})


def kept_answer(used: Used, order: Order) -> Mapping[str, int | float] | None:
    """The numbers with which this very final evaluation was answered before, if it was."""
    return next((one.reply for one in used.evaluations if one.order == order.digest), None)


def order_digest(object_ids: Mapping[str, str]) -> str:
    """SHA-256 of a message's records by their Flower object ids, without the initial weights; 64 hex digits."""
    own = {name: value for name, value in object_ids.items() if name.partition(".")[0] != _INITIAL_WEIGHTS}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def load_used(path: Path) -> Used:
    """Read a record; an empty one if the file does not exist.

    Raises:
        PrivacyError: The file cannot be read, so nobody can say how much is left.
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
    """The record of the run that an order to train belongs to: the one under way, or a further one if one is left."""
    if used.run and _continues(used, order):
        return used
    if used.run >= config.limits.runs:
        where = "its final evaluation" if used.evaluations else f"round {used.last_round}"
        raise OverLimitError(
            "run",
            f"the order is for round {order.round}, the run is at {where}, and no further run is approved (limits.runs "
            f"= {config.limits.runs}): ask the coordinator for a new request if the run is to be played again.",
        )
    return Used(run=used.run + 1)


def _continues(used: Used, order: Order) -> bool:
    """Whether an order to train goes on with the run: near its last round, and after its end only what came before."""
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
            f"the order is for a further final evaluation, approved is limits.evaluations = "
            f"{config.limits.evaluations}: it is refused.",
        )
    found = (*used.evaluations, EvaluationUsed(order=order.digest))
    return used.model_copy(update={"run": max(used.run, 1), "evaluations": found})


def _answered_evaluation(before: EvaluationUsed, reply: Mapping[str, int | float] | None) -> EvaluationUsed:
    kept = before.reply if before.reply is not None else reply
    return before.model_copy(update={"answers": before.answers + 1, "reply": kept})


def _beyond(what: str) -> OverLimitError:
    return OverLimitError("round", f"the order is for {what}: it goes beyond what is approved and is refused.")
