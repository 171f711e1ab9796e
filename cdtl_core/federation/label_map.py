"""Heads by label map: sites share a head only if their labels mean the same, so its tensors carry the labels' hash."""

import hashlib
from collections.abc import Sequence

__all__ = ["head_name", "label_hash"]


def label_hash(labels: Sequence[str]) -> str:
    """Eight hex digits that name an ordered set of labels."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()[:8]


def head_name(name: str, labels: Sequence[str]) -> str:
    """The name under which a tensor travels: ``head.weight`` becomes ``head.<label hash>.weight``."""
    return f"head.{label_hash(labels)}.{name.removeprefix('head.')}" if name.startswith("head.") else name
