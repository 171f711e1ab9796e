"""Reads DICOM and TIFF files in a separate process, so that a codec's crash, hang or memory use does no harm here.

gdcm, the only free codec for JPEG-LS and lossless JPEG, aborts or faults on about one in a hundred damaged streams.
Therefore each reading thread borrows a process for this work only: a path goes in as a line of JSON, a line of JSON and
the pixels come out. The process has limited memory and time and no stderr; a process that dies is replaced.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.data.decode.picture import DicomTags, Picture
from cdtl_core.data.fault import LARGEST_BYTES, UnreadableError, refuse
from cdtl_core.data.frame import Frame
from cdtl_core.errors import DataError

__all__ = ["read_apart"]

_TIMEOUT_S = 60.0
_Process = subprocess.Popen[bytes]
_idle: list[_Process] = []


class _DiedError(Exception):
    """The process ended before it answered."""


def read_apart(path: Path, frame: Frame = "middle") -> Picture:
    """Read a DICOM or TIFF file in a separate process.

    After a crash the file is tried once more in a fresh process, since an earlier file may have caused the damage.

    Raises:
        DataError: As `read_dicom` and `read_raster`; also if the file crashes the codec or is not read within a minute.
    """
    request = json.dumps({"path": os.fspath(path.absolute()), "frame": frame}).encode() + b"\n"
    try:
        with suppress(_DiedError):
            return _ask(request, _borrow())
        return _ask(request, _start())
    except (_DiedError, TimeoutError) as fault:
        did = "takes too long to decode" if isinstance(fault, TimeoutError) else "crashes the decoder"
        raise refuse(path, UnreadableError(f"{did}, so it is damaged")) from None
    except OSError as error:
        raise DataError(
            f"the image {path} cannot be read because no process can be started ({error.strerror}): free memory and "
            "try again."
        ) from None


def _ask(request: bytes, process: _Process) -> Picture:
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        process.kill()

    timer = threading.Timer(_TIMEOUT_S, stop)
    timer.daemon = True
    timer.start()
    try:
        reply, pixels = _exchange(process, request)
    except BaseException as fault:
        _end(process)
        if not isinstance(fault, ValueError | OSError):
            raise
        raise (TimeoutError() if is_late.is_set() else _DiedError()) from None
    finally:
        timer.cancel()
    _idle.append(process)
    if "error" in reply:
        raise DataError(reply["error"])
    tags = DicomTags(**reply["tags"]) if reply["tags"] else None
    return Picture(np.frombuffer(pixels, np.uint8).reshape(reply["shape"]), reply["bits"], reply["format"], tags)


def _exchange(process: _Process, request: bytes) -> tuple[dict[str, Any], bytes]:
    """Send a request and read the answer; raises ValueError or OSError if the process dies meanwhile."""
    if process.stdin is None or process.stdout is None:
        raise ValueError
    process.stdin.write(request)
    process.stdin.flush()
    reply: dict[str, Any] = json.loads(process.stdout.readline())
    size = int(np.prod(reply.get("shape", [0]), dtype=np.int64))
    if not 0 <= size <= LARGEST_BYTES:
        raise ValueError
    pixels = process.stdout.read(size)
    if len(pixels) != size:
        raise ValueError
    return reply, pixels


def _borrow() -> _Process:
    try:
        return _idle.pop()
    except IndexError:
        return _start()


def _start() -> _Process:
    root = os.fspath(Path(__file__).parents[3])
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cdtl_core.data.decode.reader_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search},
    )


def _end(process: _Process) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


@atexit.register
def _end_all() -> None:
    while _idle:
        _end(_idle.pop())


if hasattr(os, "register_at_fork"):
    # a forked child must not write into its parent's pipes
    os.register_at_fork(after_in_child=_idle.clear)
