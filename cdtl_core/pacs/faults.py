"""What goes wrong with a PACS, in sentences of ours: texts of libraries repeat addresses, names and identifiers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cdtl_core.errors import CdtlError, ConfigError, DataError

__all__ = ["PacsAwayError", "PacsError", "need", "quiet_libraries", "unexpected"]

_LOUD = ("dicomweb_client", "highdicom", "pydicom", "pynetdicom", "requests", "retrying", "urllib3")


class PacsError(DataError):
    """The PACS refuses, or gives an answer that cannot be used; trying again does not help."""


class PacsAwayError(PacsError):
    """The PACS cannot be reached or stops in the middle; trying again may help."""


def need(package: str) -> ConfigError:
    """Return the error for a package of the extra that is not installed."""
    return ConfigError(f"the PACS commands need the package {package}, which is missing: pip install 'cdtl[pacs]'.")


def unexpected(error: Exception) -> str:
    """Return a sentence about an error whose own text may hold what it was about."""
    return f"an unexpected fault ({type(error).__name__})"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep log lines, warnings and unexpected errors of the libraries away: they repeat names and identifiers.

    Raises:
        PacsError: In place of an unexpected error, with its kind only.
    """
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
    except (CdtlError, OSError):
        raise
    except Exception as error:
        raise PacsError(unexpected(error)) from None
    finally:
        for logger, level, propagate, disabled in before:
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
