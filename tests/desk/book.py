"""A desk of one page with a form, for tests of what both desks rest on."""

import threading
from collections.abc import Iterator

import pytest
from starlette.responses import Response

from cdtl_core.desk.desk import Desk, Form, Page, Visit
from cdtl_core.desk.doors import Doors
from cdtl_core.errors import ConfigError
from tests.desk.person import served

NAME = "Site <b>north</b>\x1b[2J"
TITLE = "First page"


class Book:
    """A desk of one page, with a form that writes into it."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.now = 1000.0
        self.begun, self.end = threading.Event(), threading.Event()

    def make(self, port: int, doors: Doors) -> Desk:
        pages = [Page("/", self.show, TITLE), Page("/of/{name}", self.of)]
        upload, slow = Form("/upload", self.upload, limit=200_000), Form("/slow", self.slow)
        return Desk(NAME, port, doors, pages, [Form("/write", self.write), upload, slow])

    def show(self, visit: Visit) -> Response:
        return visit.page("fault.html", TITLE, sentence=f"{len(self.written)} written")

    def of(self, visit: Visit) -> Response:
        raise ConfigError(f"there is no {visit.parameters['name']}.")

    def write(self, visit: Visit) -> Response:
        self.written.append(visit.fields["text"])
        return visit.go("/", f"{visit.fields['text']} is written.")

    def slow(self, visit: Visit) -> Response:
        self.begun.set()
        self.end.wait(60)
        return visit.go("/")

    def upload(self, visit: Visit) -> Response:
        self.written.append(str(visit.files["file"].filename))
        return visit.go("/")


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def desk(book: Book) -> Iterator[Desk]:
    with served(book.make, clock=lambda: book.now) as found:
        yield found
