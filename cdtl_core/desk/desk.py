"""A desk: pages and forms behind `Guard` and `Doors`.

A page is a function that takes a `Visit` and returns a response. One that changes something is a form: it is reached by
POST only, after the session and its token have been checked. Forms that go to one path are handled one at a time: an
approval takes up to a minute, and a withdrawal must not wait for it.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cdtl_core.desk.doors import Doors, Notice, Session, same_token
from cdtl_core.desk.guard import FORM_BYTES, Guard, policy_of
from cdtl_core.errors import CdtlError
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.foreign import get_logger, visible
from cdtl_core.system.templates import page_environment

__all__ = ["Desk", "Form", "Need", "Page", "Visit"]

LOOK = "x-desk-look"
"""Header of a request that a page sends by itself, which does not keep a session alive."""
_TEMPLATES = Path(__file__).parent / "templates"
_FILES = {"desk.css": "text/css", "desk.js": "text/javascript"}
_BODY_S = 60.0
_MOST = 2000  # characters of a sentence
_log = get_logger("cdtl.desk")


@dataclass(frozen=True)
class Need:
    """Something that a person has to do: a sentence, and a page of the desk or a command."""

    text: str
    path: str = ""
    label: str = ""
    command: str = ""


@dataclass(frozen=True)
class Page:
    """A page, read by GET.

    Attributes:
        path: With parameters in braces, such as ``/runs/{id}``; a parameter never holds a slash.
        show: Returns the page.
        title: In the navigation; empty: not there.
    """

    path: str
    show: "Callable[[Visit], Response]"
    title: str = ""


@dataclass(frozen=True)
class Form:
    """What changes something, reached by POST.

    Attributes:
        path: As of a page; without parameters if `limit` is not the default.
        handle: Does it and returns `Visit.go`, or the page again.
        limit: Most bytes of the body.
    """

    path: str
    handle: "Callable[[Visit], Response]"
    limit: int = FORM_BYTES


@dataclass(frozen=True)
class Visit:
    """One request of a person in a session.

    Attributes:
        desk: The desk.
        session: The session.
        path: The address that was asked for, in `Desk.base`.
        parameters: Those of the path.
        fields: Texts of the form, stripped but for a passphrase; none for a page.
        files: Files of the form, by the name of their field; an empty field is not there.
    """

    desk: "Desk"
    session: Session
    path: str
    parameters: Mapping[str, str]
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, UploadFile] = field(default_factory=dict)

    def page(self, template: str, title: str, *, status: int = 200, **values: Any) -> Response:
        """Return a page: a template that extends ``layout.html``.

        Args:
            template: Its file name in ``templates``.
            title: Its heading.
            status: HTTP status; 400 for a form that is shown again with a fault.
            values: What the template shows.
        """
        notices = list(self.session.notices)
        self.session.notices.clear()
        given = {"csrf": self.session.csrf, "path": self.path, "notices": notices, "title": title, **values}
        return HTMLResponse(self.desk.render(template, given), status)

    def document(self, text: str) -> Response:
        """Return a whole HTML document of our own, such as a report, with the style in its head and no script."""
        return HTMLResponse(text, headers={"Content-Security-Policy": policy_of(text)})

    def go(self, path: str, said: str = "") -> Response:
        """Return the way to another page, by its path in `Desk.base`; it shows the sentence `said` once."""
        if said:
            self.session.notices.append(Notice(said))
        return RedirectResponse(self.desk.base + path, 303)

    def fault(self, sentence: str, status: int = 400) -> Response:
        """Return a page with a sentence about what is wrong."""
        return self.page("fault.html", "This did not work", status=status, sentence=visible(sentence, _MOST))


class Desk:
    """Pages and forms of one person's desk.

    Cookies do not tell ports apart: a browser that another account of this machine leads to a port of its own sends it
    the cookies of 127.0.0.1. Therefore the desk's cookie is for a folder with a random name, which no other port knows
    and a browser tells none, and all pages are in that folder.

    Attributes:
        base: That folder, which begins each address of a page: ``{{ base }}/runs`` in templates.

    Args:
        name: What the desk is of, such as ``Site north``.
        port: The port that it is served on.
        doors: Links and sessions.
        pages: The pages; those with a title are in the navigation, in this order.
        forms: The forms.
    """

    def __init__(self, name: str, port: int, doors: Doors, pages: Sequence[Page], forms: Sequence[Form]) -> None:
        self.name, self.port, self.doors = name, port, doors
        self._cookie = f"cdtl_desk_{port}"
        self.base = f"/{secrets.token_urlsafe(16)}"
        self._pages, self._forms = pages, forms
        self._environment = page_environment(_TEMPLATES)
        self._environment.filters["visible"] = visible
        self._environment.globals |= {
            "moment": lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)),
            "desk": name,
            "base": self.base,
            "places": [(one.path, one.title) for one in pages if one.title],
        }

    def app(self) -> ASGIApp:
        """Return the application."""
        forms = [Form("/leave", self._leave), *self._forms]
        routes = [
            *(Route(f"/{name}", self._file(name), methods=["GET"]) for name in _FILES),
            Route("/enter/{token}", self._door, methods=["GET"]),
            Route("/enter", self._enter, methods=["POST"]),
            *(Route(self.base + one.path, self._of_page(one), methods=["GET"]) for one in self._pages),
            *(Route(self.base + one.path, self._of_form(one), methods=["POST"]) for one in forms),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: self._http_fault, Exception: self._crash}
        limits = {self.base + one.path: one.limit for one in forms}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self.port, limits)

    def link(self) -> str:
        """Return the address that opens the desk once."""
        return f"http://127.0.0.1:{self.port}/enter/{self.doors.new_link()}"

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """Return a template with the values that every page has."""
        return self._environment.get_template(template).render(**values)

    def _file(self, name: str) -> Callable[[Request], Response]:
        content = (_TEMPLATES / name).read_bytes()
        return lambda _: Response(content, media_type=_FILES[name])

    def _door(self, request: Request) -> Response:
        """Show the button that uses the link: GET changes nothing, and a program that only looks uses nothing up."""
        return HTMLResponse(self._outside("Open the desk", token=request.path_params["token"]))

    async def _enter(self, request: Request) -> Response:
        token = _texts(await _read(request)).get("token", "")
        key = self.doors.enter(token)
        if isinstance(key, int):
            wrong = "This link was used already, is older than ten minutes, or is not complete."
            text = f"Too many wrong links: wait {key} seconds." if key else wrong
            headers = {"Retry-After": str(key)} if key else {}
            return HTMLResponse(self._outside("The desk stays closed", text), 429 if key else 403, headers)
        answer = RedirectResponse(f"{self.base}/", 303)
        answer.set_cookie(self._cookie, key, httponly=True, samesite="strict", path=self.base)
        return answer

    def _leave(self, visit: Visit) -> Response:
        self.doors.leave(visit.session)
        answer = HTMLResponse(self._outside("Signed out", "This browser can no longer use the desk."))
        answer.delete_cookie(self._cookie, httponly=True, samesite="strict", path=self.base)
        return answer

    def _session(self, request: Request) -> Session | None:
        return self.doors.session(request.cookies.get(self._cookie, ""), person=LOOK not in request.headers)

    def _of_page(self, page: Page) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            session = self._session(request)
            return self._shut() if session is None else self._made(page.show, self._visit(request, session))

        return answer

    def _of_form(self, form: Form) -> Callable[[Request], Any]:
        turn = threading.Lock()

        def handle(visit: Visit) -> Response:
            with turn:
                return self._made(form.handle, visit)

        async def answer(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return self._shut()
            given = await _read(request)
            try:
                texts = _texts(given)
                if not same_token(texts.pop("csrf", ""), session.csrf):
                    return self._visit(request, session).fault("This form is not of this session: open it again.", 403)
                files = {name: one for name, one in given.items() if isinstance(one, UploadFile) and one.filename}
                return await run_in_threadpool(handle, self._visit(request, session, texts, files))
            finally:
                await given.close()

        return answer

    def _visit(self, request: Request, session: Session, *form: Mapping[str, Any]) -> Visit:
        return Visit(self, session, request.url.path.removeprefix(self.base), request.path_params, *form)

    def _made(self, make: Callable[[Visit], Response], visit: Visit) -> Response:
        try:
            return make(visit)
        except CdtlError as error:
            return visit.fault(str(error))
        except OSError as error:
            return visit.fault(str(disk_fault(error)), 500)

    def _outside(self, title: str, text: str = "", token: str = "") -> str:
        return self.render("door.html", {"title": title, "text": text, "token": token})

    def _shut(self) -> Response:
        text = "This browser has no session, or it has ended."
        return HTMLResponse(self._outside("The desk is closed", text), 401)

    def _http_fault(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        session = self._session(request)
        if session is None:
            return self._shut()
        known = {404: "There is no such page.", 405: "This address takes a form, not a visit.", 408: "Too slow."}
        return self._visit(request, session).fault(known.get(status, "The form cannot be read."), status)

    def _crash(self, _: Request, error: Exception) -> Response:
        _log.error("a page failed: %s", type(error).__name__, exc_info=error)
        return PlainTextResponse("The page cannot be made; the terminal of the desk says why.\n", 500)


async def _read(request: Request) -> FormData:
    """Return a form; its length was checked, and a file in it stays in memory or in a file without a name."""
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.form(max_files=1, max_fields=64, max_part_size=FORM_BYTES)
    except TimeoutError:
        raise HTTPException(408) from None
    except (ClientDisconnect, FormParserError):
        raise HTTPException(400) from None


def _texts(form: FormData) -> dict[str, str]:
    """Return the texts of a form.

    Raises:
        HTTPException: A field is there twice: who checks one could use the other.
    """
    if len(form.multi_items()) != len(form):
        raise HTTPException(400)
    texts = {name: one for name, one in form.items() if isinstance(one, str)}
    return {name: one if name == "passphrase" else one.strip() for name, one in texts.items()}
