"""A PACS to ask and to fetch from, whatever its protocol."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from cdtl_core.errors import CdtlError
from cdtl_core.pacs.query import Asked, Query, Series, Study
from cdtl_core.pacs.settings import PacsConfig

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Peer", "Sink", "open_peers"]

Sink = Callable[["Dataset"], None]
"""Gets each image as it arrives; what it raises ends the transfer."""


class Peer(Protocol):
    """A connection to a PACS for one thread.

    All methods raise `PacsAwayError` if the PACS cannot be reached or stops in the middle, and `PacsError` if it
    refuses or gives an answer that cannot be used.
    """

    def studies(self, query: Query, asked: Asked) -> list[Study]:
        """Return the studies that meet the conditions."""

    def series(self, study: Study) -> list[Series]:
        """Return all series of a study."""

    def fetch(self, study: Study, series: Series | None, sink: Sink) -> None:
        """Fetch all images of a series, or of the study."""

    def close(self) -> None:
        """End the connection."""


@contextmanager
def open_peers(config: PacsConfig) -> Iterator[Callable[[], Peer]]:
    """Yield what gives each thread its own connection; all are closed at the end.

    Raises:
        ConfigError: A package of the extra is missing, or a secret, a certificate or a port cannot be used.
    """
    own, opened = threading.local(), list[Peer]()
    with _peers(config) as make:

        def peer() -> Peer:
            if not hasattr(own, "peer"):
                own.peer = make()
                opened.append(own.peer)
            found: Peer = own.peer
            return found

        try:
            yield peer
        finally:
            for one in opened:
                with suppress(CdtlError, OSError):
                    one.close()


def _peers(config: PacsConfig) -> AbstractContextManager[Callable[[], Peer]]:
    if config.protocol == "dicomweb":
        from cdtl_core.pacs.dicomweb import dicomweb_peers

        return dicomweb_peers(config)
    from cdtl_core.pacs.dimse import dimse_peers

    return dimse_peers(config)
