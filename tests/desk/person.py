"""A desk that is served, and a person with a browser before it."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

import httpx

from cdtl_core.desk.desk import Desk
from cdtl_core.desk.doors import Doors
from cdtl_core.desk.serving import desk_server
from cdtl_core.system.processes import free_port
from tests.deploy.loopback import eventually


class Person:
    """Sends what a browser sends: cookies, and the Origin of a form."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.origin = port, f"http://{host}:{port}"
        self.base = ""
        self.client = httpx.Client(base_url=self.origin, trust_env=False, follow_redirects=True, timeout=120)

    def open(self, link: str) -> httpx.Response:
        """Use a link as a person does: look at its page, press its button."""
        page = self.get(link.partition(f":{self.port}")[2])
        assert page.status_code == 200
        opened: httpx.Response = self.send("/enter", token=value_of(page.text, "token"))
        if opened.status_code == 200:
            self.base = opened.url.path.rstrip("/")
        return opened

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self.at(path), headers=headers)

    def send(self, path: str, files: Any = None, headers: Any = None, **fields: str) -> Any:
        """Post a form as it is given, from a page of the desk."""
        return self.client.post(
            self.at(path), data=fields, files=files, headers={"Origin": self.origin, **(headers or {})}
        )

    def at(self, path: str) -> str:
        """Return a page's address, in the folder of the desk."""
        return path if path.startswith(("/enter", "/desk.", "http:")) else self.base + path

    def fill(self, page: str, path: str, files: Any = None, **fields: str) -> Any:
        """Open a page and post the form in it that goes to `path`, with its hidden fields."""
        return self.send(path, files, **hidden_of(self.get(page).text, path), **fields)

    @property
    def csrf(self) -> str:
        return value_of(self.get("/").text, "csrf")


@contextmanager
def served(make: Callable[[int, Doors], Desk], idle_s: float = 600.0, **options: Any) -> Iterator[Desk]:
    """Serve a desk in a thread."""
    port = free_port()
    desk = make(port, Doors(idle_s, **options))
    server = desk_server(desk)
    server.config.host, server.config.port = "127.0.0.1", port
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, "the desk")
        yield desk
    finally:
        server.should_exit = True
        thread.join(10)


def value_of(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return unescape(found[1])


def hidden_of(page: str, path: str) -> dict[str, str]:
    """Return the hidden fields of the form that goes to a path."""
    form = re.search(rf'<form [^>]*action="[^"]*{re.escape(path)}".*?</form>', page, re.DOTALL)
    assert form, page
    hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[0])
    return {name: unescape(value) for name, value in hidden}
