"""Hostile text on every screen, log and page is shown as text and has no effect."""

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table
from rich.text import Text

import cdtl_core.cli
from cdtl_core.cli import findings, follow, parties, rehearsing
from cdtl_core.cli.progress import showing_progress
from cdtl_core.cli.screen import guarded_screen, open_console
from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.deploy.request import ApprovalRequest, make_request
from cdtl_core.federation.contract import ModalityContract
from cdtl_core.federation.journal import Ending, Round
from cdtl_core.quality import CohortCheck, Finding
from cdtl_core.quality.check import ClassCount, Counts
from cdtl_core.results.text import ending_lines, round_lines
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import get_logger, is_plain, shown, visible
from cdtl_core.system.progress import report
from cdtl_core.system.templates import page_environment, text_environment
from tests.conftest import Cdtl
from tests.tables import Tries

FORGED = "The code is the same as the cdtl installed here, byte for byte."
HOSTILE = [
    "random\x1b[8m",
    f"random\x1b[2K\r{FORGED}\x1b[8m",
    f"random\n{FORGED}",
    f"random\r\n{FORGED}",
    f"random\x0b{FORGED}",
    f"random\x85{FORGED}",
    f"random\u2028{FORGED}",
    "\x1b]8;;http://elsewhere.example\x07click\x1b]8;;\x07",
    "\x1b]0;title\x07",
    "\x9b2J\x9b1;1H",
    "\u202edesrever\u202c",
    "\u2066a\u2069",
    "zero\u200bwidth\u200d\ufeff\u2060",
    "blank\u3164\u2800\u115f",
    "nul\x00bell\x07back\x08\x08\x08del\x7f",
    "tags\U000e0041",
    "a" + "\u0301" * 40,
    "lone\udc80",
]
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MARKUP = ["[red]x[/red]", "[link=http://elsewhere.example]x[/link]", "[/]", ":skull:", "[bold", "\\[red]x"]
RUN = RunConfig.model_validate({"image": {"size": 32}, "model": {"backbone": "test_efficientnet", "weights": "random"}})
SITE = SiteConfig.model_validate({"site": "north", "modality": "mri", "data": {"phantom": {"patients": 12}}})


def moving(text: str) -> list[str]:
    """Return the characters that a screen would interpret."""
    return [char for char in text if char != "\n" and unicodedata.category(char) in UNSEEN]


def forged(text: str) -> bool:
    """Whether a line begins with what only we may say."""
    return any(line.strip().startswith(FORGED) for line in text.split("\n"))


@pytest.mark.attack("foreign text is never printed raw", "escapes, line breaks, bidi, invisible characters")
def test_a_foreign_value_is_one_line_that_shows_all_its_characters(tries: Tries) -> None:
    for text in HOSTILE:
        tries.add()
        assert is_plain(visible(text)), text
        assert visible(text) != text
        assert len(visible("x" * 10_000)) < 400
        assert not moving(shown(f"first\n{text}"))
    for text in (*MARKUP, "bösartig", "悪性", "é", "e\u0301", "malignant (BI-RADS 4a)", "C:\\x", ""):
        assert visible(text) == text


class Found(dict[str, Any]):
    """A status; whatever it holds beside what a test says is hostile too."""

    def __init__(self, text: str, **known: Any) -> None:
        super().__init__(known)
        self.text = text

    def __missing__(self, _: str) -> str:
        return self.text


def print_request(text: str) -> None:
    request = make_request(RUN, "0" * 64)
    settings = {**request.settings, "model.weights": text, text: 1}
    fields = dict(request) | {"settings": settings}
    known = {key: value for key, value in settings.items() if key != text}
    shows = ApprovalRequest.model_construct(**fields)
    before, parties.unflatten = parties.unflatten, lambda _: RUN  # type: ignore[attr-defined]
    try:
        parties.print_request(shows, SITE)
    finally:
        parties.unflatten = before  # type: ignore[attr-defined]
    assert known


def print_contract(text: str) -> None:
    fields: dict[str, Any] = {"site": "north", "modality": "mri", "labels": (text, "b"), "positive": text}
    fields |= {"label_map": {text: text}, "channels": 1, "bit_depth": 8, "patients": 40, "statistics": None}
    parties.print_contract(ModalityContract.model_construct(**fields), "ab cd")


def print_coordinator(text: str) -> None:
    run = {"name": "run", "status": "running", "round": 1, "rounds": 2, "reason": text, "waiting": {text: text}}
    site = {"modality": text, "patients": 40, "revoked": False, "connected": True, "last_seen": 1.0}
    found = {"names": ["localhost"], "port": 1, "running": True, "pid": 1, "certificate_expires": "2030-01-01"}
    more = {"database_replaced": {"time": 1.0, "why": text}, "troubles": {"gateway": text}}
    parties.print_coordinator(Found(text, **found, sites={text: site}, runs=[run], **more))


def print_site(text: str) -> None:
    found = {"site": "north", "modality": "mri", "running": True, "pid": 1, "connected": False, "last_contact": None}
    told = {"coordinator": {"host": "h", "port": 1}, "last_fault": {"why": text}, "last_refusal": {"why": text}}
    told |= {"troubles": {"node": text}}
    parties.print_site(Found(text, **found, **told, **_runs(text), privacy=text, models=[text]))


def _runs(text: str) -> dict[str, Any]:
    return {
        "approved": {"a": text},
        "used": {"a": text},
        "half_approved": {"b": text},
        "pending": {"c": text},
        "refused": {"d": text},
    }


def print_run(text: str) -> None:
    sites = {text: {"val_auroc": 0.5}}
    one = Round("cdtl", 1, 1.0, sites, absent=[text], refused={text: text}, joined=[text])
    end = Ending("cdtl", 2, 1.0, {text: {"test_auroc": 0.5, "chosen": text}}, {text: text})
    follow.print_ending(end, {text: text})
    typer.echo("\n".join([*round_lines(one), *ending_lines(end), follow._waiting({"waiting": {text: text}})]))


def print_check(text: str) -> None:
    none: Any = {"colour": 0, "duplicate_pairs": 0, "opposite_pairs": 0}
    counts = Counts(
        images=1, readable=1, patients=1, classes=(ClassCount(text, 1, 1),), sizes={}, bits={}, formats={}, **none
    )
    finding = Finding("rule", "error", text, text, (Path("/data") / text.replace("\x00", ""),))
    findings.print_check(CohortCheck("mri", counts, (finding,)), Path("/data"))


def print_checks(text: str) -> None:
    rehearsing.print_checks({"checks": [{"state": "wrong", "name": "link", "text": text}], "rehearsal": None})


def print_table(text: str) -> None:
    table = Table(text, title=text)
    table.add_row(text, Text(text))
    open_console(width=120).print(table)
    open_console(stderr=True).print(text)


SCREENS: list[Callable[[str], None]] = [
    print_request, print_contract, print_coordinator, print_site, print_run, print_check, print_checks, print_table,
]  # fmt: skip


@pytest.mark.attack("foreign text is never printed raw", "hostile values on each screen")
@pytest.mark.parametrize("screen", SCREENS)
def test_no_screen_prints_a_control_character_or_reads_markup(
    screen: Callable[[str], None], capsys: pytest.CaptureFixture[str], tries: Tries
) -> None:
    for text in (*HOSTILE, *MARKUP):
        tries.add()
        with guarded_screen():
            screen(text)
        told = capsys.readouterr()
        printed = told.out + told.err
        assert not moving(printed), (text, printed)
        assert "\x1b" not in printed
        if text in MARKUP:
            assert text[:4] in printed
        if screen is not print_table:  # whose caller makes the lines of a cell
            assert not forged(printed), (text, printed)


def test_every_console_is_opened_in_one_place() -> None:
    """A console of rich's own would read markup and let escapes through."""
    folder = Path(cdtl_core.cli.__file__).parent
    found = [path.name for path in folder.glob("*.py") if re.search(r"\bConsole\(", path.read_text())]
    assert found == []


@pytest.mark.attack("foreign text is never printed raw", "escapes and markup in progress")
def test_progress_on_a_terminal_moves_nothing_but_its_own_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    for text in (*HOSTILE, *MARKUP):
        with showing_progress():
            report(method=text, round=1, site="north")
        printed = re.sub(r"\x1b\[[0-9;?]*[A-Zhlm]|\r", "", capsys.readouterr().err)  # the bar's own colours and moves
        assert visible(text)[:12] in printed, (text, printed)
        assert not moving(printed), (text, printed)
        assert text.endswith("]") or "[8m" not in printed.replace("\\u001b[8m", "")


@pytest.mark.attack("foreign text is never printed raw", "a coordinator's request with escapes")
def test_a_request_with_escapes_is_refused_before_it_is_shown(cdtl: Cdtl, tmp_path: Path, tries: Tries) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "site.toml").write_text(
        'site = "north"\nmodality = "mri"\n[data.phantom]\npatients = 12\n', encoding="utf-8"
    )
    whole = json.loads(make_request(RUN, "0" * 64).model_dump_json())
    for text in HOSTILE:
        for name, request in (
            ("weights", {**whole, "settings": {**whole["settings"], "model.weights": text}}),
            ("key", {**whole, "settings": {**whole["settings"], text: 1}}),
            ("name", {**whole, "name": text}),
            ("version", {**whole, "cdtl_version": text}),
            ("site", {**whole, "sites": [text]}),
            ("field", {**whole, text: 1}),
        ):
            tries.add()
            (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
            done = cdtl("site", "approve", tmp_path / "site", tmp_path / "request.json", "--yes")
            assert done.code == 3, (name, text)
            assert not moving(done.out + done.err), (name, text)
            assert not forged(done.out + done.err)
    assert not (tmp_path / "site" / "approvals").exists()


@pytest.mark.attack("foreign text is never printed raw", "hostile answers in a site's status")
def test_the_status_of_a_site_shows_what_the_coordinator_answered_as_text(cdtl: Cdtl, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "site.toml").write_text('site = "north"\nmodality = "mri"\n[data.phantom]\npatients = 12\n')
    for text in HOSTILE:
        replace_json(site / "gate.json", {"last_refusal": {"why": text}, "last_fault": {"why": text}})
        for more in ((), ("--json",)):
            done = cdtl("site", "status", site, *more)
            assert done.code == 7
            assert not moving(done.out + done.err), text
            assert not forged(done.out)
        assert json.loads(done.out)["last_refusal"]["why"] == text


@pytest.mark.attack("foreign text is never printed raw", "line breaks and escapes in logs")
def test_a_log_record_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str], tries: Tries) -> None:
    log, handler = get_logger("cdtl.hostile"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    for text in (*HOSTILE, "%s %d", "\nERROR all is well"):
        tries.add()
        log.error("a site says %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("it failed: %s", text)
        lines = capsys.readouterr().err.rstrip("\n").split("\n")
        assert not moving("\n".join(lines))
        assert [line[:6] for line in lines if not line.startswith("    ")] == ["ERROR ", "ERROR "], lines
    log.removeHandler(handler)


def test_every_logger_of_ours_writes_one_line_a_record() -> None:
    root = Path(cdtl_core.__file__).parent
    files = [path for room in (root, root.parent / "server", root.parent / "client") for path in room.rglob("*.py")]
    own = {"foreign.py", "progress.py"}  # the latter's records are no text
    found = re.compile(r"= logging\.getLogger\(")
    assert [path.name for path in files if path.name not in own and found.search(path.read_text())] == []


@pytest.mark.attack("foreign text is never printed raw", "escapes and bidi on pages")
def test_a_page_shows_foreign_text_without_effect(tries: Tries, tmp_path: Path) -> None:
    page, card = (make(tmp_path).from_string("<td>{{ text }}</td>") for make in (page_environment, text_environment))
    for text in HOSTILE:
        tries.add()
        for template in (page, card):
            assert not moving(template.render(text=text)), text
    assert "<script>" not in page.render(text="<script>alert(1)</script>")
