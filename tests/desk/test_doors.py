"""Links and sessions of a desk: who gets in, for how long, and what a link, a cookie and a token hold."""

import time
from typing import Any

import pytest

from cdtl_core.desk.desk import Desk
from cdtl_core.desk.doors import LINK_S, Doors
from tests.desk.book import TITLE, Book, book, desk
from tests.desk.person import Person, value_of

__all__ = ["book", "desk"]


def test_a_link_opens_the_desk_and_a_form_writes_and_says_so_once(person: Person, book: Book) -> None:
    assert TITLE in person.get("/").text
    told = person.send("/write", csrf=person.csrf, text="one").text
    assert book.written == ["one"]
    assert "one is written." in told
    assert "one is written." not in person.get("/").text


@pytest.mark.attack("A desk opens only by its link, once", "used again, late, wrong, guessed")
def test_a_link_is_good_once_and_for_ten_minutes(desk: Desk, book: Book, tries: Any) -> None:
    link = desk.link()
    for _ in range(3):
        assert Person(desk.port).get(link).status_code == 200  # looking uses nothing up
    assert Person(desk.port).open(link).url.path == f"{desk.base}/"
    assert "was used already" in Person(desk.port).open(link).text
    older, link = desk.link(), desk.link()
    assert Person(desk.port).open(older).status_code == 403
    book.now += LINK_S
    assert Person(desk.port).open(link).status_code == 403
    tries.add(3)


@pytest.mark.attack("A desk opens only by its link, once", "many guesses")
def test_wrong_links_are_slowed_down_and_the_right_one_still_opens(desk: Desk, tries: Any) -> None:
    link, stranger = desk.link(), Person(desk.port)
    codes = [stranger.send("/enter", token=f"{number:043}").status_code for number in range(20)]
    assert codes[:3] == [403, 403, 403]
    assert set(codes[4:]) == {429}
    assert Person(desk.port).open(link).status_code == 200
    tries.add(20)


@pytest.mark.attack("A desk serves only a session", "no cookie, a wrong one, after sign-out, idle, a day later")
def test_there_is_no_page_and_no_form_without_a_living_session(
    desk: Desk, person: Person, book: Book, tries: Any
) -> None:
    name, key = next(iter(person.client.cookies.items()))
    csrf = person.csrf
    strangers = [Person(desk.port), Person(desk.port)]
    strangers[1].client.cookies.set(name, key[:-1] + ("A" if key[-1] != "A" else "B"))
    strangers[1].base = person.base
    for stranger in strangers:
        for path in ("/", "/of/x", "/nothing", "/write"):
            assert stranger.get(path).status_code == 401
        assert stranger.send("/write", csrf=csrf, text="x").status_code == 401
        tries.add(5)
    for _ in range(3):  # a page that brings itself up to date is no person
        book.now += 250
        alive = person.get("/", **{"X-Desk-Look": "1"}).status_code
    assert alive == 401
    person.open(desk.link())
    for _ in range(8 * 12):
        book.now += 299
        assert person.get("/").status_code == 200
    book.now += 299
    assert person.get("/").status_code == 401
    person.open(desk.link())
    key = person.client.cookies[name]
    assert "Signed out" in person.send("/leave", csrf=person.csrf).text
    person.client.cookies.set(name, key)
    assert person.get("/").status_code == 401
    assert book.written == []
    tries.add(3)


def test_the_cookie_is_for_this_desk_alone_and_no_address_holds_a_secret(desk: Desk) -> None:
    person = Person(desk.port)
    answer = person.open(desk.link())
    (entered,) = answer.history
    cookie = entered.headers["set-cookie"]
    assert cookie.startswith(f"cdtl_desk_{desk.port}=")
    for part in ("HttpOnly", "SameSite=strict", f"Path={desk.base}"):
        assert part in cookie
    assert "Domain" not in cookie
    assert entered.headers["location"] == f"{desk.base}/"
    for path in ("/", "/enter/x", "/desk.css", "/other/"):  # a port of another account learns nothing
        assert "cookie" not in person.client.build_request("GET", f"http://127.0.0.1:{desk.port + 1}{path}").headers
    assert "cookie" in person.client.build_request("GET", person.at("/")).headers
    key, csrf = next(iter(person.client.cookies.values())), person.csrf
    assert len(desk.base) > 20
    assert len(key) >= 43
    assert len(csrf) >= 43
    assert key not in person.get("/").text


def test_a_link_holds_256_bits(desk: Desk) -> None:
    page = Person(desk.port).get(desk.link())
    assert len(value_of(page.text, "token")) * 6 >= 256


def test_a_session_ends_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a sleeping machine: the monotonic one stands still, that of the time since boot goes on."""
    doors, read = Doors(600.0), time.clock_gettime
    key = str(doors.enter(doors.new_link()))
    link = doors.new_link()
    assert doors.session(key) is not None
    monkeypatch.setattr(time, "clock_gettime", lambda which: read(which) + 3600 * (which == time.CLOCK_BOOTTIME))
    assert doors.session(key) is None
    assert doors.enter(link) == 0
