"""What every request of a desk must pass before a page sees it, and the headers that every answer carries.

The person's browser is the danger: any page in it can send requests to loopback. Therefore the name in Host must be
this desk's (else DNS rebinding would make the desk a part of a foreign origin), and a request that changes something
must come from a page of the desk.
"""

import base64
import hashlib
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["FORM_BYTES", "POLICY", "Guard", "policy_of"]

FORM_BYTES = 64 * 1024
"""Bytes of a form without a file."""
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Under no-referrer a browser sends `Origin: null` with a form: the guard could not tell it from a foreign page's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def policy_of(document: str) -> str:
    """Return the policy of a document of ours: the style in its head by hash, images that it holds, and no script."""
    style = document.partition("<style>")[2].partition("</style>")[0]
    sha256 = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{sha256}'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


class Guard:
    """Refuses a request with a foreign Host or Origin, a method other than GET, HEAD and POST, or too long a body.

    Args:
        app: What comes behind.
        port: The desk's port.
        limits: Path to the most bytes of a body; `FORM_BYTES` for others.
    """

    def __init__(self, app: ASGIApp, port: int, limits: Mapping[str, int]) -> None:
        self._app, self._limits = app, limits
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":  # uvicorn's start and end; there are no web sockets
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._fault(scope)
        await (refused or self._app)(scope, receive, send_guarded)

    def _fault(self, scope: Scope) -> PlainTextResponse | None:
        headers, method = Headers(scope=scope), scope["method"]
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return _refusal(421, "This desk answers only under the address that its command printed.")
        if method == "POST":
            return self._post_fault(headers, scope["path"])
        if method not in {"GET", "HEAD"}:
            return _refusal(405, "A desk knows GET and POST only.")
        site, whole = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-dest", "document") == "document"
        if site not in {"none", "same-origin"} and not whole:
            return _refusal(403, "This request comes from another site.")
        return None

    def _post_fault(self, headers: Headers, path: str) -> PlainTextResponse | None:
        if headers.getlist("origin") != [f"http://{headers['host']}"]:
            return _refusal(403, "This form comes from another site: use the forms of the desk.")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _refusal(403, "This form comes from another site: use the forms of the desk.")
        if not (length := headers.get("content-length", "")).isdecimal() or "transfer-encoding" in headers:
            return _refusal(411, "The length of the form is not given.")
        if int(length) > (most := self._limits.get(path, FORM_BYTES)):
            return _refusal(413, f"The form is too large: at most {most // 1024} KB.")
        return None


def _refusal(status: int, sentence: str) -> PlainTextResponse:
    return PlainTextResponse(sentence + "\n", status, {"Connection": "close"})  # the body is not read
