"""Connection to the coordinator: mutual TLS, its own authority only, no environment; signed and counted."""

import ssl
from dataclasses import dataclass

import httpx

from cdtl_core.deploy.egress_filter.config import FilterConfig
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.signing import Signer
from cdtl_core.deploy.egress_filter.status import Status
from cdtl_core.errors import ConfigError

__all__ = ["Answer", "Upstream", "open_client", "tls_context"]

_MAX_ANSWER = 64 * 1024 * 1024
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_FAILED_BEHIND = (502, 504)


@dataclass(frozen=True)
class Answer:
    """An answer of the coordinator, or 503 / 504 instead, which make the SuperNode try again.

    It is `uncertain` if the coordinator may have acted on the request but its answer was lost.
    """

    status: int
    content: bytes = b""
    media_type: str | None = None
    uncertain: bool = False

    @property
    def passing(self) -> bool:
        """Whether a later try may succeed."""
        return self.status in (502, 503, 504)


class Upstream:
    """Sends requests to the coordinator's gateway, each signed with the site's key."""

    def __init__(self, client: httpx.AsyncClient, log: EgressLog, status: Status, signer: Signer) -> None:
        self._client, self._log, self._status, self._signer = client, log, status, signer

    @property
    def public_key(self) -> bytes:
        """The site's public key, as the coordinator knows it."""
        return self._signer.public_key

    async def send(self, name: str, body: bytes) -> Answer:
        """POST a request to ``/v1/fleet/<name>``; an answer beyond 64 MiB is cut off and counts as none."""
        headers = self._signer.headers()
        self._log.count(name, len(body))
        try:
            async with self._client.stream("POST", f"/v1/fleet/{name}", content=body, headers=headers) as response:
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_ANSWER:
                        self._status.lost("the coordinator's answer is longer than 64 MiB")
                        return Answer(503)
        except httpx.TimeoutException as error:
            self._status.lost("the coordinator did not answer in time")
            return Answer(504, uncertain=not isinstance(error, _NOT_SENT))
        except httpx.HTTPError as error:
            self._status.lost(_why(error))
            return Answer(503, uncertain=not isinstance(error, _NOT_SENT))
        self._status.contact(response.status_code)
        uncertain = response.status_code in _FAILED_BEHIND
        return Answer(response.status_code, bytes(content), response.headers.get("content-type"), uncertain)


def _why(error: httpx.HTTPError) -> str:
    """Return the reason and advice; TLS 1.3 accepts an unknown client first and then closes without a reason."""
    if isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
        return "the coordinator closed the connection: if this repeats, it has not admitted this site's key"
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return f"the coordinator cannot be reached ({text}): check host, port and firewall"
    detail = text.partition("verify failed:")[2].rpartition("(")[0].strip() or text
    return f"the coordinator's certificate is refused ({detail}): check --server, --ca and this machine's clock"


def tls_context(config: FilterConfig) -> ssl.SSLContext:
    """Return a TLS context with the coordinator's authority, and the site's own certificate if it has one.

    Raises:
        ConfigError: A file is missing or is no certificate or key.
    """
    try:
        context = ssl.create_default_context(cafile=str(config.ca))
        if config.client_certificate:
            context.load_cert_chain(config.client_certificate, config.client_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the filter's certificates cannot be used ({error}): correct ca or client_certificate."
        ) from None
    return context


def open_client(config: FilterConfig) -> httpx.AsyncClient:
    """Open a client for `Upstream`; close it with ``aclose``.

    Raises:
        ConfigError: A certificate cannot be used.
    """
    timeout = httpx.Timeout(25.0, connect=5.0)
    return httpx.AsyncClient(
        base_url=config.upstream, verify=tls_context(config), proxy=config.proxy, timeout=timeout, trust_env=False
    )
