"""A small PACS in this process: the same data sets by DICOMweb and by DIMSE, with faults on request."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from cdtl_core.system.processes import free_port
from tests.deploy.loopback import Certificates
from tests.pacs.studies import encoded

_BOUND = b"cut-here"


class SmallPacs:
    """Holds data sets and answers for them.

    `asked` gets every request in words. `break_after` (a number of images) ends each transfer in the middle, once.
    """

    def __init__(self, images: list[Dataset]) -> None:
        self.images, self.asked = images, list[str]()
        self.break_after = 0
        self.stored: list[bytes] = []
        self.status = 200
        self.tells_counts, self.tells_length = True, True

    def studies(self, keys: dict[str, str]) -> list[Dataset]:
        return self._grouped("StudyInstanceUID", keys)

    def series(self, keys: dict[str, str]) -> list[Dataset]:
        return self._grouped("SeriesInstanceUID", keys)

    def select(self, keys: dict[str, str]) -> list[Dataset]:
        return [one for one in self.images if all(_fits(one, name, value) for name, value in keys.items() if value)]

    def _grouped(self, name: str, keys: dict[str, str]) -> list[Dataset]:
        groups: dict[str, list[Dataset]] = {}
        for one in self.select(keys):
            groups.setdefault(one[name].value, []).append(one)
        return [_answer(ones, self.images) for ones in groups.values()]

    @contextmanager
    def web(self, certificates: Certificates | None = None) -> Iterator[str]:
        """Serve DICOMweb, over TLS with certificates; yield its address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"pacs": self}))
        if certificates:
            server.socket = _context(certificates, server=True).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http{'s' if certificates else ''}://127.0.0.1:{server.server_port}/dicom-web"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @contextmanager
    def dimse(self, *, receive_port: int = 0, certificates: Certificates | None = None) -> Iterator[int]:
        """Serve DIMSE as PACS for CDTL alone; yield its port.

        Args:
            receive_port: Where images go after a C-MOVE.
            certificates: For TLS in both directions, which both sides must show.
        """
        service = AE(ae_title="PACS")
        service.require_called_aet, service.require_calling_aet = True, ["CDTL"]
        for model in (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelGet,
            StudyRootQueryRetrieveInformationModelMove,
        ):
            service.add_supported_context(model)
        for kind in (UltrasoundImageStorage, CTImageStorage):
            service.add_supported_context(kind, ExplicitVRLittleEndian, scp_role=True, scu_role=True)
            service.add_requested_context(kind, ExplicitVRLittleEndian)
        handlers = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move, [receive_port, certificates]),
        ]
        port, context = free_port(), _context(certificates, server=True) if certificates else None
        if context is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        server = service.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context)
        try:
            yield port
        finally:
            server.shutdown()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        keys = _keys(event.identifier)
        self.asked.append(f"find {keys}")
        for one in self.studies(keys) if event.identifier.QueryRetrieveLevel == "STUDY" else self.series(keys):
            yield 0xFF00, one
        yield 0x0000, None

    def _get(self, event: Any) -> Iterator[Any]:
        found = self.select(_keys(event.identifier))
        self.asked.append(f"get {_keys(event.identifier)}")
        yield len(found)
        for place, one in enumerate(found, 1):
            if self.broken(place):
                event.assoc.abort()
                return
            yield 0xFF00, one

    def _move(self, event: Any, port: int, certificates: Certificates | None) -> Iterator[Any]:
        found = self.select(_keys(event.identifier))
        self.asked.append(f"move {_keys(event.identifier)}")
        tls = {"tls_args": (_context(certificates, server=False), "127.0.0.1")} if certificates else {}
        yield ("127.0.0.1", port, {"ae_title": event.move_destination, **tls})
        yield len(found)
        for place, one in enumerate(found, 1):
            if self.broken(place):
                event.assoc.abort()
                return
            yield 0xFF00, one

    def broken(self, place: int) -> bool:
        """Whether the transfer ends before this image."""
        if self.break_after and place > self.break_after:
            self.break_after = 0
            return True
        return False


def _context(certificates: Certificates, *, server: bool) -> ssl.SSLContext:
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


def _fits(one: Dataset, name: str, value: str) -> bool:
    own = one.get("Modality" if name == "ModalitiesInStudy" else name, "")
    if name == "StudyDate" and "-" in value:
        first, _, last = value.partition("-")
        return (first or "0") <= own <= (last or "9")
    return fnmatchcase(str(own), value)


def _answer(ones: list[Dataset], everything: list[Dataset]) -> Dataset:
    found, first = Dataset(), ones[0]
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyDate", "StudyDescription"):
        setattr(found, name, first.get(name, ""))
    found.SeriesDescription, found.Modality = first.get("SeriesDescription", ""), first.Modality
    own = [one for one in everything if one.StudyInstanceUID == first.StudyInstanceUID]
    found.ModalitiesInStudy = sorted({one.Modality for one in own})
    found.NumberOfStudyRelatedInstances = len(own)
    found.NumberOfSeriesRelatedInstances = len(ones)
    return found


def _keys(identifier: Dataset) -> dict[str, str]:
    names = (keyword_for_tag(one.tag) for one in identifier if one.value not in (None, ""))
    return {name: str(identifier[name].value) for name in names if name != "QueryRetrieveLevel"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pacs: SmallPacs

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.pacs.asked.append(unquote(self.path))
        parts = url.path.strip("/").split("/")[1:]  # studies, UID, series, UID
        keys = {name: value[0] for name, value in parse_qs(url.query).items() if name[0].isupper()}
        named = dict(zip(("StudyInstanceUID", "SeriesInstanceUID"), parts[1::2], strict=False))
        if self.pacs.status != 200:
            self._send(self.pacs.status, b"", "text/plain")
        elif parts == ["studies"]:
            offset = int(parse_qs(url.query).get("offset", ["0"])[0])
            self._json(self._told(self.pacs.studies(keys)[offset:]))
        elif parts[-1] == "series":
            self._json(self._told(self.pacs.series(named)))
        else:
            self._images(self.pacs.select(named))

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        bound = self.headers["Content-Type"].split('boundary="')[1].rstrip('"').encode()
        parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"--" + bound)[1:-1]]
        self.pacs.stored += [part.removesuffix(b"\r\n") for part in parts]
        answer = Dataset()
        answer.ReferencedSOPSequence = [Dataset() for _ in parts]
        self._send(200, json.dumps(answer.to_json_dict()).encode(), "application/dicom+json")

    def _told(self, found: list[Dataset]) -> list[Dataset]:
        for one in [] if self.pacs.tells_counts else found:
            del one.NumberOfStudyRelatedInstances, one.NumberOfSeriesRelatedInstances
        return found

    def _json(self, found: list[Dataset]) -> None:
        self._send(200, json.dumps([one.to_json_dict() for one in found]).encode(), "application/dicom+json")

    def _images(self, found: list[Dataset]) -> None:
        parts = [b"--" + _BOUND + b"\r\nContent-Type: application/dicom\r\n\r\n" + encoded(one) for one in found]
        body = b"\r\n".join([*parts, b"--" + _BOUND + b"--\r\n"])
        kind = f'multipart/related; type="application/dicom"; boundary={_BOUND.decode()}'
        cut = next((place for place in range(1, len(found) + 1) if self.pacs.broken(place)), 0)
        more = 900 if self.pacs.tells_length else 2  # with the line break before a boundary
        self._send(200, body, kind, sent=len(b"\r\n".join(parts[: cut - 1])) + more if cut else len(body))

    def _send(self, status: int, body: bytes, kind: str, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if self.pacs.tells_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        if status in {301, 302}:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()
        self.wfile.write(body[:sent])
        if sent is not None and sent < len(body):
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Be silent."""
