"""Bounds on what a PACS answers by DICOMweb: an end that came too early is noticed, and no answer fills the memory.

An answer of several parts ends with a boundary of its own. The client of the library takes the end of the connection
for it: of a PACS that tells no numbers of images, half a study would pass for a whole one.
"""

from collections.abc import Iterator
from typing import Any

import requests

from cdtl_core.pacs.faults import PacsError

__all__ = ["LARGEST_IMAGE", "LARGEST_LIST", "bounded"]

LARGEST_IMAGE = 8 << 30
"""Most bytes of one image: a whole slide has some gigabytes."""
LARGEST_LIST = 256 << 20
"""Most bytes of an answer without parts: a list of 200 studies has some hundred kilobytes."""


def bounded(response: requests.Response, *_: Any, **__: Any) -> None:
    """Bound an answer; a hook of `requests`, which calls it before the body is read.

    Raises:
        PacsError: While the body is read: an image or a list is too large, or the body is compressed.
        ConnectionError: While the body is read: it ends before its last boundary.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise PacsError("the PACS compresses its answers, although that was not asked for: switch it off.")
    kind, read = response.headers.get("Content-Type", ""), response.iter_content
    mark = b"--" + _boundary(kind) if response.ok and "multipart/" in kind.lower() else b""

    def iter_content(*args: Any, **options: Any) -> Iterator[bytes]:
        return _parts(read(*args, **options), mark) if len(mark) > 2 else _short(read(*args, **options))

    vars(response)["iter_content"] = iter_content


def _boundary(kind: str) -> bytes:
    found = [one.strip().partition("=") for one in kind.split(";")]
    return next((value.strip('"').encode() for name, _, value in found if name.lower() == "boundary"), b"")


def _parts(chunks: Iterator[bytes], mark: bytes) -> Iterator[bytes]:
    tail, size = b"", 0
    for chunk in chunks:
        seen = tail + chunk
        place = seen.rfind(mark)
        size = size + len(chunk) if place < 0 else len(seen) - place
        if size > LARGEST_IMAGE:
            raise PacsError(f"the PACS sends an image of more than {LARGEST_IMAGE >> 30} GB.")
        tail = seen[-len(mark) - 8 :]
        yield chunk
    if mark + b"--" not in tail:
        raise ConnectionError


def _short(chunks: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > LARGEST_LIST:
            raise PacsError(f"the PACS sends a list of more than {LARGEST_LIST >> 20} MB.")
        yield chunk
