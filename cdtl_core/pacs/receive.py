"""Takes images that a PACS sends: on its own association (C-GET), or on one that it opens to this site (C-MOVE)."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pydicom import uid

from cdtl_core.errors import ConfigError
from cdtl_core.pacs.faults import PacsAwayError, need
from cdtl_core.pacs.peer import Sink
from cdtl_core.pacs.secret import server_context
from cdtl_core.pacs.settings import DimseConfig

try:
    from pynetdicom import AE, AllStoragePresentationContexts, evt
except ImportError as error:
    raise need("pynetdicom") from error

__all__ = ["PROMPT", "Arriving", "Receiver", "receive"]

_FORMS = [
    *(uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless),
    *(uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000, uid.RLELossless),
]
_SUCCESS, _NOT_ASKED, _FAILED = 0x0000, 0x0124, 0xA700


def _prompt(event: Any) -> None:
    """Send and acknowledge at once: DIMSE sends several small messages before it waits, and each delay costs 40 ms."""
    connection = event.assoc.dul.socket
    own = connection.socket if connection is not None else None
    if own is not None:
        with suppress(OSError):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_QUICKACK"):  # Linux; it holds until the next pause
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


PROMPT = [(evt.EVT_CONN_OPEN, _prompt), (evt.EVT_DATA_RECV, _prompt)]


def receive(event: Any, sink: Sink | None, keep: Callable[[BaseException], None]) -> int:
    """Give an image to its sink; return the status for the PACS.

    Args:
        event: Of pynetdicom.
        sink: Gets the image; None: none was asked for.
        keep: Gets what the sink raises, which ends the transfer.
    """
    if sink is None:
        return _NOT_ASKED
    try:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        sink(dataset)
    except BaseException as fault:
        keep(fault)
        return _FAILED
    return _SUCCESS


@dataclass
class Arriving:
    """A study that is on its way: the images so far, and what went wrong."""

    sink: Sink
    count: int = 0
    fault: BaseException | None = None
    more: threading.Condition = field(default_factory=threading.Condition)

    def arrived(self) -> None:
        """Count an image."""
        with self.more:
            self.count += 1
            self.more.notify_all()

    def failed(self, fault: BaseException) -> None:
        """Note what went wrong."""
        with self.more:
            self.fault = self.fault or fault
            self.more.notify_all()

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Wait for images that a PACS reports as sent before they arrive.

        Raises:
            PacsAwayError: None arrived for so long.
        """
        with self.more:
            while self.fault is None and self.count < count:
                before = self.count
                if not self.more.wait(timeout_s) and self.count == before:
                    raise PacsAwayError("the PACS reports images as sent that did not arrive: check the firewall.")


class Receiver:
    """A storage service on a port of this machine, for studies that were asked for.

    Only the AE title of the PACS may connect, and only studies that are waited for are taken.
    """

    def __init__(self, config: DimseConfig) -> None:
        self._expected: dict[str, Arriving] = {}
        service = AE(ae_title=config.own_ae_title)
        for context in AllStoragePresentationContexts:
            kind = uid.UID(str(context.abstract_syntax))
            if "Image" in kind.name:  # each kind that is offered costs time at every association
                service.add_supported_context(kind, _FORMS)
        service.require_called_aet = True
        service.require_calling_aet = [config.ae_title]
        service.maximum_associations = 64
        try:
            self._server = service.start_server(
                (config.receive_address, config.receive_port or 0),
                block=False,
                ssl_context=server_context(config),
                evt_handlers=[(evt.EVT_C_STORE, self._arrived), *PROMPT],
            )
        except OSError as error:
            raise ConfigError(
                f"port {config.receive_port} of {config.receive_address} cannot be opened ({error.strerror}): another "
                "program uses it, or dimse.receive_address is no address of this machine."
            ) from None

    def close(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()

    @contextmanager
    def expecting(self, study: str, sink: Sink) -> Iterator[Arriving]:
        """Take the images of a study inside the block."""
        arriving = self._expected[study] = Arriving(sink)
        try:
            yield arriving
        finally:
            self._expected.pop(study, None)

    def _arrived(self, event: Any) -> int:
        try:
            arriving = self._expected.get(str(event.dataset.StudyInstanceUID))
        except Exception:  # what cannot be read was not asked for
            return _NOT_ASKED
        if arriving is None or arriving.fault is not None:
            return _NOT_ASKED
        status = receive(event, arriving.sink, arriving.failed)
        if status == _SUCCESS:
            arriving.arrived()
        return status
