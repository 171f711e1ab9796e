"""A PACS that speaks DICOMweb: QIDO-RS to ask, WADO-RS to fetch, STOW-RS to store.

Nothing is sent to another host: proxies of the environment and redirects are not followed.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from cdtl_core.pacs.faults import PacsAwayError, PacsError, need
from cdtl_core.pacs.peer import Sink
from cdtl_core.pacs.query import Asked, Query, Series, Study, as_count, unique
from cdtl_core.pacs.secret import check_private, password_of, token_of
from cdtl_core.pacs.settings import DicomwebConfig, PacsConfig

try:
    import requests
    from dicomweb_client.web import DICOMwebClient
except ImportError as error:
    raise need("dicomweb-client") from error

from cdtl_core.pacs.answers import bounded

__all__ = ["DicomwebPeer", "dicomweb_peers"]

_STUDY = ("StudyInstanceUID", "AccessionNumber", "StudyDate", "StudyDescription", "ModalitiesInStudy")
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances")
_PAGE = 200
_MOST_STUDIES = 1_000_000  # a server that gives new ones for ever would fill the memory
_AS_STORED = (("application/dicom", "*"),)
_REFUSED = {
    401: "the PACS does not accept the credentials (401): check user and password, or the token",
    403: "the PACS does not allow this account to do that (403): ask its administrator",
    404: "the PACS does not know what was asked for (404): check dicomweb.url",
    406: "the PACS cannot send images as they are stored (406)",
    413: "the PACS does not take objects of this size (413)",
}


@contextmanager
def dicomweb_peers(config: PacsConfig) -> Iterator[Callable[[], "DicomwebPeer"]]:
    """Yield what opens a connection; see `open_peers`."""
    own = config.dicomweb
    if own is None:  # excluded by the settings
        raise need("dicomweb-client")
    if own.certificate_key is not None:
        check_private(own.certificate_key, "key")
    password, token = password_of(own), token_of(own)
    yield lambda: DicomwebPeer(own, config.timeout_s, password, token)


class DicomwebPeer:
    """A connection; arguments: settings, longest silence in seconds, and secrets."""

    def __init__(self, config: DicomwebConfig, timeout_s: float, password: str | None, token: str | None) -> None:
        self._url = config.url
        session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc
        session.max_redirects = 0
        session.headers["Accept-Encoding"] = "identity"
        session.hooks["response"].append(bounded)
        session.verify = str(config.ca_file) if config.ca_file else _system_certificates()
        if config.certificate:
            session.cert = (str(config.certificate), str(config.certificate_key))
        if config.user and password:
            session.auth = (config.user.encode(), password.encode())
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        with _translated(self._url):
            self._client = DICOMwebClient(config.url.rstrip("/"), session=session, timeout=timeout_s)
        self._client.set_http_retry_params(retry=False)
        self._session = session

    def studies(self, query: Query, asked: Asked) -> list[Study]:
        """Return the studies that meet the conditions, page by page."""
        found: list[Study] = []
        while True:
            with _translated(self._url):
                lines = self._client.search_for_studies(
                    limit=_PAGE,
                    offset=len(found),
                    fields=[*_STUDY, "NumberOfStudyRelatedInstances"],
                    search_filters=dict(query.keys(asked)),
                )
                page = [_study(line) for line in lines]
            if not {one.uid for one in page} - {one.uid for one in found}:  # the end, or a server without pages
                break
            found += page
            if len(found) > _MOST_STUDIES:
                raise PacsError(f"the PACS lists more than {_MOST_STUDIES} studies: set narrower conditions.")
            if asked.accession or asked.study:
                break
        return [one for one in unique(found) if one.uid and query.wants(one, asked)]

    def series(self, study: Study) -> list[Series]:
        """Return all series of a study."""
        with _translated(self._url):
            lines = self._client.search_for_series(study.uid, fields=[*_SERIES])
            return [_series(line) for line in lines if _text(line, "SeriesInstanceUID")]

    def fetch(self, study: Study, series: Series | None, sink: Sink) -> None:
        """Fetch all images of a series, or of the study, as they are stored."""
        client = self._client
        with _translated(self._url):
            images = iter(
                client.iter_series(study.uid, series.uid, media_types=_AS_STORED)
                if series
                else client.iter_study(study.uid, media_types=_AS_STORED)
            )
        while True:
            with _translated(self._url):
                image = next(images, None)
            if image is None:
                return
            sink(image)

    def store(self, datasets: list[Dataset], study: str) -> None:
        """Store data sets of a study, by STOW-RS.

        Raises:
            PacsError: The PACS refuses one of them.
        """
        with _translated(self._url):
            answer = self._client.store_instances(datasets, study_instance_uid=study)
        stored = answer.get("ReferencedSOPSequence") or []
        if answer.get("FailedSOPSequence") or len(stored) < len(datasets):
            raise PacsError(f"the PACS stored {len(stored)} of {len(datasets)} objects: ask its administrator why.")

    def close(self) -> None:
        """End the connection."""
        self._session.close()


def _system_certificates() -> str | bool:
    """Return where this system keeps the certificates that it trusts; True: those that come with requests."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn errors of the libraries into sentences without addresses of studies."""
    try:
        yield
    except requests.exceptions.HTTPError as error:
        raise _of_status(error.response.status_code if error.response is not None else 0) from None
    except requests.exceptions.RequestException as error:
        raise _of_network(error, url) from None
    except ConnectionError:
        raise PacsAwayError(f"{url} broke the connection: does the PACS run?") from None
    except (PacsError, MemoryError):
        raise
    except Exception:  # the texts of parsers repeat what they read
        raise PacsError(f"the answer of {url} is not DICOMweb, or was cut short: check dicomweb.url.") from None


def _of_network(error: requests.exceptions.RequestException, url: str) -> PacsError:
    if isinstance(error, requests.exceptions.SSLError):
        return PacsError(
            f"the certificate of {url} is not trusted, or the address does not speak TLS: check dicomweb.url and "
            "dicomweb.ca_file."
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return PacsError(f"{url} redirects to another address, which is not followed: set dicomweb.url to it.")
    if isinstance(error, requests.exceptions.Timeout):
        return PacsAwayError(f"{url} does not answer in time: is the PACS busy, or timeout_s too short?")
    return PacsAwayError(f"{url} cannot be reached: check host, port and firewall, and that the PACS runs.")


def _of_status(status: int) -> PacsError:
    if status in _REFUSED:
        return PacsError(f"{_REFUSED[status]}.")
    if status == 429 or status >= 500:
        return PacsAwayError(f"the PACS reports a fault of its own ({status}).")
    return PacsError(f"the PACS refuses the request ({status}): check dicomweb.url and what the account may do.")


def _values(line: Mapping[str, Any], keyword: str) -> list[str]:
    """Return an attribute of DICOM JSON as texts."""
    element = line.get(f"{pydicom.datadict.tag_for_keyword(keyword):08X}") or {}
    return [str(one).strip(" \0") for one in element.get("Value", []) if one is not None]


def _text(line: Mapping[str, Any], keyword: str) -> str:
    return next(iter(_values(line, keyword)), "")


def _study(line: Mapping[str, Any]) -> Study:
    return Study(
        uid=_text(line, "StudyInstanceUID"),
        accession=_text(line, "AccessionNumber"),
        day=_text(line, "StudyDate"),
        description=_text(line, "StudyDescription"),
        modalities=tuple(_values(line, "ModalitiesInStudy")),
        images=as_count(_text(line, "NumberOfStudyRelatedInstances")),
    )


def _series(line: Mapping[str, Any]) -> Series:
    return Series(
        uid=_text(line, "SeriesInstanceUID"),
        modality=_text(line, "Modality"),
        description=_text(line, "SeriesDescription"),
        images=as_count(_text(line, "NumberOfSeriesRelatedInstances")),
    )
