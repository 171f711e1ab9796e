"""Keeps warnings of the image libraries off the terminal while a file is read; thread-safe."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silenced"]

_LIBRARIES = r"(PIL|pydicom|openjpeg|rle|pylibjpeg|gdcm|cdtl_core\.imaging)(\.|$)"
_lock = threading.Lock()
_depth = 0
_saved: warnings.catch_warnings | None = None


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress warnings of image libraries; warnings of other modules pass.

    Filters are global to the process, so the first thread sets them and the last one restores them.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.filterwarnings("ignore", module=_LIBRARIES)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _saved is not None:
                _saved.__exit__(None, None, None)
                _saved = None
