"""Judges a reply: decoded from its objects, compared with the egress list and the site's files, and encoded again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict
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
from cdtl_core.federation.egress import EgressManifest, limit_of
from cdtl_core.federation.egress_check import Own, check_outline, own_fault
from cdtl_core.federation.packing import encoded_again, is_packed, not_finite, outline, packed, records_of, unpacked
from cdtl_core.privacy.ledger_file import ledger_exists, read_ledger

__all__ = ["Judged", "judge", "own_of"]

LEDGER_FOLDER = "privacy"
"""Folder with the ledger; a hospital has one ledger for all runs."""


@dataclass(frozen=True)
class Judged:
    """A reply as it may leave, or None and the reason."""

    content: RecordDict | None
    reason: str
    tensors: int = 0
    scalars: int = 0


def own_of(home: Path, ask: Ask) -> Own:
    """Return the site's own facts for a reply: its enrolment, its privacy ledger, and the round of the message.

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
    """Judge a reply; a reply with any error does not leave.

    Args:
        manifest: The approved egress list.
        message_type: Type of the message that it answers.
        root: The reply's root object.
        objects: All objects of the reply.
        own: The site's own facts and the round of the message.
    """
    try:
        _check_size(objects, limit_of(manifest, message_type))
        message = inflate_object_from_contents(root, dict(objects))
        if not isinstance(message, Message) or not message.has_content():
            return Judged(None, "a reply has no content and no error: nothing of it leaves.")
        return _judge(manifest, message_type, message.content, own)
    except CdtlError as error:
        return Judged(None, str(error))
    except Exception as error:  # Flower raises many kinds of errors for malformed objects
        return Judged(None, f"a reply cannot be put together ({type(error).__name__}): nothing of it leaves.")


def _judge(manifest: EgressManifest, message_type: str, content: RecordDict, own: Own) -> Judged:
    """Judge twice: by its declared sizes, which bounds memory, and by its real content. Packed content is packed again.

    Args:
        manifest: The approved egress list.
        message_type: Type of the message that it answers.
        content: The decoded reply.
        own: The site's own facts and the round of the message.
    """
    packs = [key for key in records_of(content, ArrayRecord) if is_packed(content, key)]
    if packs:
        content = unpacked(encoded_again(content))
    reason = check_outline(manifest, message_type, outline(content))
    if reason:
        return Judged(None, reason)
    clean = encoded_again(content)
    truth = outline(clean)
    reason = check_outline(manifest, message_type, truth) or own_fault(own, truth) or not_finite(clean)
    tensors = sum(len(record) for record in truth.arrays.values())
    scalars = sum(len(record) for records in (truth.metrics, truth.configs) for record in records.values())
    return Judged(None if reason else packed(clean, packs), reason, tensors, scalars)


def _check_size(objects: Mapping[str, bytes], limit: int) -> None:
    """Add up decoded sizes, since an array may name one chunk a million times."""
    total = 0
    for content in objects.values():
        total += len(content)
        if get_object_type_from_object_content(content) == "Array":
            total += _array_size(content, objects)
    if total > 2 * limit:
        raise PrivacyError(
            f"a reply takes {total} bytes when decoded, and the list allows {limit}: nothing of it leaves."
        )


def _array_size(content: bytes, objects: Mapping[str, bytes]) -> int:
    from flwr.app import Array

    children = get_object_children_ids_from_object_content(content)
    numbers = json.loads(get_object_body(content, Array))["arraychunk_ids"]
    return sum(len(objects[children[number]]) for number in numbers)
