"""The process started by `cdtl_core.data.decode.reader`: paths in, pixels out, until stdin ends."""

import json
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pydicom

from cdtl_core.data.decode.dicom import read_dicom
from cdtl_core.data.decode.formats import is_dicom
from cdtl_core.data.decode.raster import read_raster
from cdtl_core.data.fault import UnreadableError, refuse
from cdtl_core.data.frame import Frame
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
        request = json.loads(line)
        for part in _answer(Path(request["path"]), request["frame"]):
            answers.write(part)
        answers.flush()


def _answer(path: Path, frame: Frame) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            read = read_dicom if is_dicom(file.read(132)) else read_raster
        picture = read(path, frame)
    except (DataError, OSError) as fault:
        error = fault if isinstance(fault, DataError) else refuse(path, UnreadableError("can no longer be opened"))
        return [json.dumps({"error": str(error)}).encode() + b"\n"]
    head = {
        "shape": picture.pixels.shape,
        "bits": picture.bits,
        "format": picture.format,
        "tags": asdict(picture.tags) if picture.tags else None,
    }
    return [json.dumps(head).encode() + b"\n", picture.pixels.tobytes()]


def _limit() -> None:
    """Limit memory to 4 GB and disable core files, which would hold patients' images."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
