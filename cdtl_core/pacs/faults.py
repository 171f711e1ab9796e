"""What goes wrong with a PACS, in sentences of ours: texts of libraries repeat addresses, names and identifiers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cdtl_core.errors import ConfigError, DataError

__all__ = ["PacsAwayError", "PacsError", "need", "quiet_libraries"]

_LOUD = ("dicomweb_client", "highdicom", "pydicom", "pynetdicom", "requests", "retrying", "urllib3")


class PacsError(DataError):
    """The PACS refuses, or gives an answer that cannot be used; trying again does not help."""


class PacsAwayError(PacsError):
    """The PACS cannot be reached or stops in the middle; trying again may help."""


def need(package: str) -> ConfigError:
    """Return the error for a package of the extra that is not installed."""
    return ConfigError(f"the PACS commands need the package {package}, which is missing: pip install 'cdtl[pacs]'.")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep every log line and warning of the libraries away: they repeat patients' names and identifiers."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    children = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(_LOUD)]
    before = [(logger, logger.level, logger.propagate, logger.disabled) for logger in {*loggers, *children}]
    try:
        for logger, *_ in before:
            logger.setLevel(logging.CRITICAL + 1)
            logger.propagate, logger.disabled = False, True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level, propagate, disabled in before:
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
