"""Progress as log records, so that training code and command line do not depend on each other.

Training code calls `report(step=3, steps=12)`. A command line attaches a `logging.Handler` to the logger
``cdtl.progress`` and reads ``record.progress``. Without a handler nothing is computed or printed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["LOGGER_NAME", "listen", "report"]

LOGGER_NAME = "cdtl.progress"
_logger = logging.getLogger(LOGGER_NAME)
_logger.propagate = False
_logger.setLevel(logging.WARNING)


def report(**fields: object) -> None:
    """Report progress to all listeners, e.g. ``report(site="north", step=3, steps=12)``."""
    if _logger.isEnabledFor(logging.INFO):
        _logger.info("progress", extra={"progress": fields})


class _Listener(logging.Handler):
    def __init__(self, hear: Callable[[Mapping[str, object]], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record.__dict__["progress"])


@contextmanager
def listen(hear: Callable[[Mapping[str, object]], None]) -> Iterator[None]:
    """Call `hear` with the fields of each report that is made inside the block."""
    handler, level = _Listener(hear), _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(level)
