"""The judgement over a reply: put together from its objects, compared with list and site, and written again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import RecordDict
from flwr.app.message.message import Message
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from cdtl_core.deploy.egress_filter.asks import Ask
from cdtl_core.errors import CdtlError, PrivacyError
from cdtl_core.federation.contract import enrolled_contract
from cdtl_core.federation.egress import EgressManifest, Own, check_outline, limit_of, own_fault
from cdtl_core.federation.outline import not_finite, outline, written_anew
from cdtl_core.federation.packing import is_packed, packed, unpacked
from cdtl_core.privacy.ledger import ledger_exists, read_ledger

__all__ = ["Judged", "judge", "own_of"]

LEDGER_FOLDER = "privacy"
"""Of a site's folder; a hospital has one ledger for all runs."""


@dataclass(frozen=True)
class Judged:
    """A reply as it may leave, or None and why not."""

    content: RecordDict | None
    reason: str
    tensors: int = 0
    scalars: int = 0


def own_of(home: Path, ask: Ask) -> Own:
    """What a site knows of itself when it answers a message: its enrolment, its privacy ledger, and the round asked.

    Raises:
        DataError: ``enrolment.json`` is damaged.
        PrivacyError: The ledger is damaged.
    """
    enrolled = enrolled_contract(home)
    own = Own(int(ask.group_id), enrolled.model_dump_json() if enrolled else "")
    if not ledger_exists(home / LEDGER_FOLDER):
        return own
    ledger = read_ledger(home / LEDGER_FOLDER)
    return replace(own, ledger=ledger.opening.ledger, reservations=len(ledger.reservations))


def judge(manifest: EgressManifest, message_type: str, root: str, objects: Mapping[str, bytes], own: Own) -> Judged:
    """Judge a reply; whatever is wrong with it, it does not leave.

    Args:
        manifest: What the site approved.
        message_type: Of the message that it answers.
        root: The object that is the reply.
        objects: All objects of the reply.
        own: What the site knows of itself and of the question.
    """
    try:
        _check_size(objects, limit_of(manifest, message_type))
        message = inflate_object_from_contents(root, dict(objects))
        if not isinstance(message, Message) or not message.has_content():
            return Judged(None, "a reply has no content and no error: nothing of it leaves.")
        return _judge(manifest, message_type, message.content, own)
    except CdtlError as error:
        return Judged(None, str(error))
    except Exception as error:  # Flower raises many kinds over malformed objects
        return Judged(None, f"a reply cannot be put together ({type(error).__name__}): nothing of it leaves.")


def _judge(manifest: EgressManifest, message_type: str, content: RecordDict, own: Own) -> Judged:
    """Twice: as it is declared, which bounds its size, and as it really is; what came packed leaves packed anew."""
    packs = [key for key in content.array_records if is_packed(content, key)]
    if packs:
        content = unpacked(written_anew(content))
    reason = check_outline(manifest, message_type, outline(content))
    if reason:
        return Judged(None, reason)
    clean = written_anew(content)
    truth = outline(clean)
    reason = check_outline(manifest, message_type, truth) or own_fault(own, truth) or not_finite(clean)
    tensors = sum(len(record) for record in truth.arrays.values())
    scalars = sum(len(record) for records in (truth.metrics, truth.configs) for record in records.values())
    return Judged(None if reason else packed(clean, packs), reason, tensors, scalars)


def _check_size(objects: Mapping[str, bytes], limit: int) -> None:
    """An array names its chunks by number and may name one a million times: add up what it would become."""
    total = 0
    for content in objects.values():
        total += len(content)
        if get_object_type_from_object_content(content) == "Array":
            total += _array_size(content, objects)
    if total > 2 * limit:
        raise PrivacyError(f"a reply grows to {total} bytes when read, the list allows {limit}: nothing of it leaves.")


def _array_size(content: bytes, objects: Mapping[str, bytes]) -> int:
    from flwr.app import Array

    children = get_object_children_ids_from_object_content(content)
    numbers = json.loads(get_object_body(content, Array))["arraychunk_ids"]
    return sum(len(objects[children[number]]) for number in numbers)
