"""An HTTP server for one page, which is rebuilt after changes; no other file of the folder is reachable."""

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cdtl_core.config.folders import RunFolder
from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.system.foreign import get_logger

__all__ = ["PageServer", "is_loopback", "serving", "stamp_of"]

_log = get_logger("cdtl.page")
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
_LIMIT_S = 10.0


@dataclass
class _Kept:
    """The last page with its stamp."""

    stamp: object = None
    content: bytes = b""
    tag: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class PageServer(ThreadingHTTPServer):
    """Serve the result of `make` at ``/``; it is called again when `stamp` changes.

    A loopback server answers only to loopback names, so that no other web site can read it through a browser.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, make: Callable[[], str], stamp: Callable[[], object]) -> None:
        self._make, self._stamp, self._kept = make, stamp, _Kept()
        self.loopback = is_loopback(host)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.served: set[str] = set()
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"the page cannot be served on {host} port {port} ({error.strerror}): choose --port."
            ) from None

    @property
    def url(self) -> str:
        """Address of the page."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/"

    def page(self) -> tuple[bytes, str]:
        """Return the page and its tag.

        Raises:
            CdtlError: A file of the run is missing or damaged.
        """
        with self._kept.lock:
            now = self._stamp()
            if now != self._kept.stamp or not self._kept.content:
                content = self._make().encode()
                self._kept.content, self._kept.tag = content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                self._kept.stamp = now
            return self._kept.content, self._kept.tag


@contextmanager
def serving(server: PageServer) -> Iterator[PageServer]:
    """Serve in the background until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def stamp_of(folder: Path) -> object:
    """Return a value that changes when a round, a method or the run ends."""
    run = RunFolder(folder)
    paths = (run.journal, run.report, folder / "run.json", run.outcome)
    return tuple((path.name, found.st_mtime_ns, found.st_size) for path in paths if (found := _stat(path)))


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except OSError:
        return None


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "cdtl", ""
    timeout = _LIMIT_S

    def do_GET(self) -> None:
        """Send the page, or 404 for any other path."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send the page's headers."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.server.loopback and not is_loopback(_name(self.headers.get("Host", ""))):
            self._plain(421, "This page is for this machine only.")
            return
        if self.path.partition("?")[0] != "/":
            self._plain(404, "The only page here is /")
            return
        try:
            content, tag = self.server.page()
        except CdtlError as error:
            self._plain(503, str(error), {"Refresh": "5"})
            return
        except Exception:  # for example a file that is being written
            _log.exception("the page could not be made")
            self._plain(500, "The page cannot be made now.")
            return
        same = self.headers.get("If-None-Match") == tag
        self.send_response(304 if same else 200)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", "0" if same else str(len(content)))
        self.end_headers()
        if with_body and not same:
            self.wfile.write(content)
        self.server.served.add(tag)

    def _plain(self, status: int, text: str, more: Mapping[str, str] | None = None) -> None:
        body = (text + "\n").encode()
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": "text/plain; charset=utf-8", **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the log of requests."""
        _log.debug(format, *args)
