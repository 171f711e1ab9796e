"""Reads DICOM, TIFF and NIfTI in a separate process, so that a codec's crash, hang or memory use does no harm here.

gdcm, the only free codec for JPEG-LS and lossless JPEG, aborts or faults on about one in a hundred damaged streams.
Therefore each reading thread borrows a process for this work only. A request goes in as a line of JSON; a line of JSON
and the pixels come out, image after image for a volume or a slide. The process has limited memory and time and no
stderr; a process that dies is replaced.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.data.decode.picture import DicomTags, Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.fault import LARGEST_BYTES, UnreadableError, refuse
from cdtl_core.data.frame import Frame
from cdtl_core.errors import DataError

__all__ = ["read_apart", "stream_apart", "survey_apart"]

_TIMEOUT_S = 60.0  # for one answer
_SURVEY_S = 600.0  # a folder may hold thousands of headers on a slow share
_Process = subprocess.Popen[bytes]
_Answer = tuple[dict[str, Any], bytes]
_idle: list[_Process] = []


class _DiedError(Exception):
    """The process ended before it answered."""


def read_apart(path: Path, frame: Frame = "middle") -> Picture:
    """Read a DICOM or TIFF file in a separate process.

    After a crash the file is tried once more in a fresh process, since an earlier file may have caused the damage.

    Raises:
        DataError: As `read_dicom` and `read_raster`; also if the file crashes the codec or is not read within a minute.
    """
    (answer,) = _tried(path, {"frame": frame}, 1, _TIMEOUT_S)
    return _picture(*answer)


def survey_apart(path: Path, asked: Survey) -> Plan:
    """Find out in a separate process which images a file or folder holds.

    Raises:
        DataError: As `survey`; also if the file crashes the reader or takes ten minutes.
    """
    (answer,) = _tried(path, {"survey": asdict(asked)}, 1, _SURVEY_S)
    return Plan.from_dict(answer[0]["plan"])


def stream_apart(path: Path, plan: Plan) -> Iterator[Picture]:
    """Yield the images of a plan from a separate process, one in memory at a time.

    Raises:
        DataError: As `pictures`; also if an image crashes the codec or is not read within a minute.
    """
    for answer in _tried(path, {"plan": plan.as_dict()}, plan.count, _TIMEOUT_S):
        yield _picture(*answer)


def _tried(path: Path, request: dict[str, Any], count: int, timeout_s: float) -> Iterator[_Answer]:
    """Yield the answers to a request; if the process dies, those that are left come from a fresh one.

    Args:
        path: The file.
        request: What is asked about it.
        count: Number of answers.
        timeout_s: For each answer.
    """
    done, died_at = 0, -1
    while done < count:
        line = json.dumps({"path": os.fspath(path.absolute()), **request, "start": done}).encode() + b"\n"
        try:
            for answer in _ask(line, _start() if died_at == done else _borrow(), count - done, timeout_s):
                if "error" in answer[0]:
                    raise DataError(answer[0]["error"])
                done += 1
                yield answer
        except (_DiedError, TimeoutError) as fault:
            if died_at == done or isinstance(fault, TimeoutError):
                did = "takes too long to decode" if isinstance(fault, TimeoutError) else "crashes the decoder"
                where = f" (at image {done + 1} of {count})" if count > 1 else ""
                raise refuse(path, UnreadableError(f"{did}{where}, so it is damaged")) from None
            died_at = done
        except OSError as error:
            raise DataError(
                f"the image {path} cannot be read because no process can be started ({error.strerror}): free memory "
                "and try again."
            ) from None


def _ask(request: bytes, process: _Process, count: int, timeout_s: float) -> Iterator[_Answer]:
    """Send a request and yield its answers. The process is kept for the next file if it gave all of them."""
    left = count
    try:
        _send(process, request)
        while left:
            answer = _timed(process, timeout_s)
            left = 0 if "error" in answer[0] else left - 1
            yield answer
    except (ValueError, OSError) as fault:
        raise (fault if isinstance(fault, TimeoutError) else _DiedError()) from None
    finally:
        if left:
            _end(process)
        else:
            _idle.append(process)


def _send(process: _Process, request: bytes) -> None:
    if process.stdin is None:
        raise ValueError
    process.stdin.write(request)
    process.stdin.flush()


def _timed(process: _Process, timeout_s: float) -> _Answer:
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        process.kill()

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        return _receive(process)
    except (ValueError, OSError):
        raise (TimeoutError() if is_late.is_set() else _DiedError()) from None
    finally:
        timer.cancel()


def _receive(process: _Process) -> _Answer:
    """Read one answer; raises ValueError or OSError if the process dies meanwhile."""
    if process.stdout is None:
        raise ValueError
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    size = int(np.prod(answer.get("shape", [0]), dtype=np.int64))
    if not 0 <= size <= LARGEST_BYTES:
        raise ValueError
    pixels = process.stdout.read(size)
    if len(pixels) != size:
        raise ValueError
    return answer, pixels


def _picture(answer: dict[str, Any], pixels: bytes) -> Picture:
    tags = DicomTags(**answer["tags"]) if answer["tags"] else None
    found = np.frombuffer(pixels, np.uint8).reshape(answer["shape"])
    return Picture(found, answer["bits"], answer["format"], tags, answer["neighbours"])


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
