"""A PACS that speaks DIMSE: C-FIND to ask, C-GET or C-MOVE to fetch, over TLS if it is set."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset

from cdtl_core.pacs.faults import PacsAwayError, PacsError, need
from cdtl_core.pacs.peer import Sink
from cdtl_core.pacs.query import Asked, Query, Series, Study, as_count, unique
from cdtl_core.pacs.secret import client_context
from cdtl_core.pacs.settings import DimseConfig, PacsConfig

try:
    from pynetdicom import AE, evt
    from pynetdicom.association import Association
    from pynetdicom.presentation import build_context, build_role
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelFind as FindModel,  # type: ignore[attr-defined,unused-ignore]
    )
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelGet as GetModel,  # type: ignore[attr-defined,unused-ignore]
    )
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelMove as MoveModel,  # type: ignore[attr-defined,unused-ignore]
    )
except ImportError as error:
    raise need("pynetdicom") from error

from cdtl_core.pacs.receive import PROMPT, Receiver, receive

__all__ = ["DimsePeer", "dimse_peers"]

_STUDY = ("AccessionNumber", "StudyDate", "StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedInstances")
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances")
_PLAIN = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
_FORMS = (
    *(_PLAIN, [uid.JPEGBaseline8Bit], [uid.JPEGLosslessSV1], [uid.JPEG2000Lossless], [uid.JPEG2000]),
    *([uid.JPEGLSLossless], [uid.RLELossless]),
)
_IMAGES = (
    *(uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage, uid.BreastTomosynthesisImageStorage),
    uid.DigitalMammographyXRayImageStorageForPresentation,
    *(uid.DigitalMammographyXRayImageStorageForProcessing, uid.ComputedRadiographyImageStorage),
    *(uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing),
    *(uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.MRImageStorage, uid.EnhancedMRImageStorage),
    *(uid.SecondaryCaptureImageStorage, uid.MultiFrameTrueColorSecondaryCaptureImageStorage),
    *(uid.PositronEmissionTomographyImageStorage, uid.VLPhotographicImageStorage, uid.VLEndoscopicImageStorage),
    uid.VLWholeSlideMicroscopyImageStorage,
)
"""Kinds of images that are fetched by C-GET: with each form that is 126 contexts, and 128 are allowed."""
_REFUSED = {
    0xA701: "the PACS has no room for the request",
    0xA702: "the PACS cannot send the images",
    0xA801: "the PACS does not know the AE title to which it must send the images (dimse.own_ae_title)",
    0xA900: "the PACS does not understand the request",
}
_ASSOCIATION = {
    3: "does not know the AE title of this site (dimse.own_ae_title): ask its administrator to add it",
    7: "has another AE title than dimse.ae_title: correct it",
}
_SUCCESS, _PARTLY = 0x0000, 0xB000


@contextmanager
def dimse_peers(config: PacsConfig) -> Iterator[Callable[[], "DimsePeer"]]:
    """Yield what opens a connection; see `open_peers`."""
    own = config.dimse
    if own is None:  # excluded by the settings
        raise need("pynetdicom")
    context = client_context(own)
    receiver = Receiver(own) if config.protocol == "c-move" else None
    try:
        yield lambda: DimsePeer(own, config.timeout_s, context, receiver)
    finally:
        if receiver is not None:
            receiver.close()


class DimsePeer:
    """A connection; an association is kept open from one request to the next.

    Args:
        config: Its settings.
        timeout_s: Longest silence in seconds.
        context: For TLS; None: without.
        receiver: Where images arrive after a C-MOVE; None: they are fetched by C-GET.
    """

    def __init__(self, config: DimseConfig, timeout_s: float, context: Any, receiver: Receiver | None) -> None:
        self._config, self._context, self._receiver = config, context, receiver
        self._ae = AE(ae_title=config.own_ae_title)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = timeout_s
        self._ae.connection_timeout = timeout_s
        self._timeout_s = timeout_s
        self._open: Association | None = None
        self._sink: Sink | None = None
        self._fault: BaseException | None = None

    def studies(self, query: Query, asked: Asked) -> list[Study]:
        """Return the studies that meet the conditions."""
        request = _request("STUDY", ("StudyInstanceUID", *_STUDY), query.keys(asked))
        found = [_study(answer) for answer in self._find(request)]
        return [one for one in unique(found) if one.uid and query.wants(one, asked)]

    def series(self, study: Study) -> list[Series]:
        """Return all series of a study."""
        request = _request("SERIES", _SERIES, {"StudyInstanceUID": study.uid})
        found = [_series(answer) for answer in self._find(request)]
        return [one for one in found if one.uid]

    def fetch(self, study: Study, series: Series | None, sink: Sink) -> None:
        """Fetch all images of a series, or of the study."""
        keys = {"StudyInstanceUID": study.uid} | ({"SeriesInstanceUID": series.uid} if series else {})
        request = _request("SERIES" if series else "STUDY", (), keys)
        if self._receiver is None:
            self._get(request, sink)
        else:
            self._move(request, study, sink, self._receiver)

    def close(self) -> None:
        """End the association."""
        if self._open is not None and self._open.is_established:
            self._open.release()
        self._open = None

    def _get(self, request: Dataset, sink: Sink) -> None:
        self._sink, self._fault = sink, None
        try:
            self._finish(self._association().send_c_get(request, GetModel))
        finally:
            self._sink = None

    def _move(self, request: Dataset, study: Study, sink: Sink, receiver: Receiver) -> None:
        with receiver.expecting(study.uid, sink) as arriving:
            self._fault = None
            try:
                done = self._finish(self._association().send_c_move(request, self._config.own_ae_title, MoveModel))
                arriving.wait_for(done, self._timeout_s)
            finally:
                if arriving.fault is not None:  # why the PACS could not send the others
                    raise arriving.fault

    def _finish(self, answers: Iterator[tuple[Dataset, Dataset | None]]) -> int:
        """Read the answers to a C-GET or C-MOVE; return the number of images that were sent.

        Raises:
            PacsError: The PACS refuses, or some images could not be sent.
        """
        done = failed = 0
        status = None
        for answer, _ in answers:
            status = answer.get("Status")
            if self._fault is not None or status is None:
                break
            done = int(answer.get("NumberOfCompletedSuboperations", done) or 0)
            failed = int(answer.get("NumberOfFailedSuboperations", failed) or 0)
        if self._fault is not None:
            self._abort()
            raise self._fault
        if status is None:
            self._abort()
            raise PacsAwayError(f"{self._name} stopped answering.")
        if failed or status == _PARTLY:
            raise PacsError(
                f"{self._name} could not send {failed or 'some'} images of a series: it has no form in common."
            )
        if status != _SUCCESS:
            raise self._refusal(status)
        return done

    def _find(self, request: Dataset) -> list[Dataset]:
        found, status = [], None
        for answer, identifier in self._association().send_c_find(request, FindModel):
            status = answer.get("Status")
            if status in {0xFF00, 0xFF01} and identifier is not None:
                found.append(identifier)
        if status is None:
            self._abort()
            raise PacsAwayError(f"{self._name} stopped answering.")
        if status != _SUCCESS:
            raise self._refusal(status)
        return found

    def _refusal(self, status: int) -> PacsError:
        return PacsError(f"{_REFUSED.get(status, f'{self._name} refuses the request')} (status {status:04X}).")

    @property
    def _name(self) -> str:
        return f"{self._config.ae_title} at {self._config.host}:{self._config.port}"

    def _association(self) -> Association:
        if self._open is not None and self._open.is_established:
            return self._open
        contexts = [build_context(FindModel)]
        roles = []
        if self._receiver is None:
            contexts.append(build_context(GetModel))
            contexts += [build_context(kind, form) for kind in _IMAGES for form in _FORMS]
            roles = [build_role(kind, scp_role=True) for kind in _IMAGES]
        else:
            contexts.append(build_context(MoveModel))
        tls: dict[str, Any] = {"tls_args": (self._context, self._config.host)} if self._context else {}
        self._open = self._ae.associate(
            self._config.host,
            self._config.port,
            contexts=contexts,
            ae_title=self._config.ae_title,
            ext_neg=roles,
            evt_handlers=[(evt.EVT_C_STORE, self._arrived), *PROMPT],
            **tls,
        )
        if not self._open.is_established:
            raise self._unconnected(self._open)
        return self._open

    def _arrived(self, event: Any) -> int:
        """Take an image of a C-GET."""
        return receive(event, self._sink, self._keep)

    def _keep(self, fault: BaseException) -> None:
        self._fault = fault

    def _abort(self) -> None:
        if self._open is not None:
            with suppress(Exception):
                self._open.abort()
        self._open = None

    def _unconnected(self, association: Association) -> PacsError:
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            if answer.result == 2:  # transient
                return PacsAwayError(f"{self._name} is too busy for another association: set downloads lower.")
            why = _ASSOCIATION.get(
                answer.diagnostic, "refuses the association: ask its administrator to allow this site"
            )
            return PacsError(f"{self._name} {why}.")
        if association.is_aborted and self._listens():
            form = "is TLS asked for on this port, and are the certificates right" if self._context else "is TLS needed"
            return PacsAwayError(f"{self._name} closed the connection: {form} (dimse.tls), and is the port DICOM's?")
        return PacsAwayError(f"{self._name} cannot be reached: check host, port and firewall, and that the PACS runs.")

    def _listens(self) -> bool:
        try:
            socket.create_connection((self._config.host, self._config.port), timeout=self._timeout_s).close()
        except OSError:
            return False
        return True


def _request(level: str, wanted: tuple[str, ...], keys: Any) -> Dataset:
    """Return the identifier of a request.

    Args:
        level: STUDY or SERIES.
        wanted: Attributes to be returned.
        keys: Attributes that must match, with their values.
    """
    request = Dataset()
    request.QueryRetrieveLevel = level
    for keyword in wanted:
        setattr(request, keyword, None)
    for keyword, value in keys.items():
        setattr(request, keyword, value)
    if any(not str(value).isascii() for value in keys.values()):
        request.SpecificCharacterSet = "ISO_IR 192"
    return request


def _text(answer: Dataset, keyword: str) -> str:
    value = answer.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _study(answer: Dataset) -> Study:
    modalities = answer.get("ModalitiesInStudy") or ()
    return Study(
        uid=_text(answer, "StudyInstanceUID"),
        accession=_text(answer, "AccessionNumber"),
        day=_text(answer, "StudyDate"),
        description=_text(answer, "StudyDescription"),
        modalities=(modalities,) if isinstance(modalities, str) else tuple(modalities),
        images=as_count(answer.get("NumberOfStudyRelatedInstances")),
    )


def _series(answer: Dataset) -> Series:
    return Series(
        uid=_text(answer, "SeriesInstanceUID"),
        modality=_text(answer, "Modality"),
        description=_text(answer, "SeriesDescription"),
        images=as_count(answer.get("NumberOfSeriesRelatedInstances")),
    )
