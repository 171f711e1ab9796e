"""The process started by `cdtl_core.data.decode.reader`: requests in, answers with pixels out, until stdin ends.

A request is a line of JSON. It names a path and asks for one image (``frame``), for what the file holds (``survey``),
or for all images of a plan from one on (``plan``, ``start``). An answer is a line of JSON, with the pixels of an image.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom

from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.several import pictures, read_one, survey
from cdtl_core.data.fault import UnreadableError, refuse
from cdtl_core.errors import DataError

__all__ = ["serve"]

_MEMORY_BYTES = 4 << 30


def serve() -> None:
    """Answer one request per line of stdin."""
    _limit()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # codecs may print
    warnings.simplefilter("ignore")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for line in sys.stdin.buffer:
        for part in _answer(json.loads(line)):
            answers.write(part)
            answers.flush()


def _answer(request: Mapping[str, Any]) -> Iterator[bytes]:
    path = Path(request["path"])
    try:
        if "survey" in request:
            yield _line({"plan": survey(path, Survey.from_dict(request["survey"])).as_dict()})
        elif "plan" in request:
            for picture in pictures(path, Plan.from_dict(request["plan"]), request["start"]):
                yield from _sent(picture)
        else:
            yield from _sent(read_one(path, request["frame"]))
    except (DataError, OSError) as fault:
        error = fault if isinstance(fault, DataError) else refuse(path, UnreadableError("can no longer be opened"))
        yield _line({"error": str(error)})


def _sent(picture: Picture) -> Iterator[bytes]:
    yield _line(
        {
            "shape": picture.pixels.shape,
            "bits": picture.bits,
            "format": picture.format,
            "tags": asdict(picture.tags) if picture.tags else None,
            "neighbours": picture.neighbours,
        }
    )
    yield picture.pixels.tobytes()


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _limit() -> None:
    """Limit memory to 4 GB and disable core files, which would hold patients' images."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
