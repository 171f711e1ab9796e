"""The page of a run in progress: served, opened in a browser, and written at the end."""

import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdtl_core.config.folders import RunFolder
from cdtl_core.report.find import page_without_patients
from cdtl_core.report.page import page_html
from cdtl_core.report.serve import PageServer, serving, stamp_of
from cdtl_core.system.durable import replace_bytes

__all__ = ["open_page", "server_of"]

_PATIENCE_S = 12.0


def server_of(folder: Path, *, host: str = "127.0.0.1", port: int = 0, run: str = "") -> PageServer:
    """Return a server for the page of a simulation, a coordinator (its newest run) or a coordinator's run.

    Args:
        folder: Folder of a run or a coordinator.
        host: Address to listen on.
        port: Port; 0: any.
        run: Run of a coordinator; empty: the newest.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    return PageServer(
        host,
        port,
        make=lambda: page_html(page_without_patients(folder, run=run, live=True)),
        stamp=lambda: stamp_of(_told_of(folder, run)),
    )


@contextmanager
def open_page(folder: Path, *, browser: bool = True) -> Iterator[str]:
    """Serve a simulation's page while the block runs; then serve until the last state was fetched once.

    Yields:
        Where the page is.
    """
    done = threading.Event()
    with serving(server_of(folder)) as server:
        opening = threading.Thread(target=_open, args=(folder, server.url, done), daemon=True)
        if browser:
            opening.start()
        try:
            yield server.url
        finally:
            done.set()
        replace_bytes(folder / "report.html", page_html(page_without_patients(folder)).encode())
        deadline = time.monotonic() + _PATIENCE_S
        while server.served and server.page()[1] not in server.served and time.monotonic() < deadline:
            time.sleep(0.1)


def _open(folder: Path, url: str, done: threading.Event) -> None:
    """Open the browser once there is a page.

    Args:
        folder: Folder of the run.
        url: Address of the page.
        done: Set when the run has ended.
    """
    while not done.wait(0.2):
        if RunFolder(folder).holds_simulation():
            webbrowser.open(url)
            return


def _told_of(folder: Path, run: str) -> Path:
    """Return the folder whose files change."""
    if not (folder / "server.toml").exists():
        return folder
    from cdtl_core.report.coordinator import newest_run

    return newest_run(folder, run)
