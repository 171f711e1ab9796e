"""Reports agree: what terminal, pages and cards say of a run is the same, and a completed run says so."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.report.charts.figure import Table
from cdtl_core.report.find import page_of
from cdtl_core.report.page import Block, Fold, Grid, Page, page_html
from cdtl_core.results.card import load_card
from tests.conftest import Cdtl, Played
from tests.report.conftest import Hospitals, finished, hospitals

__all__ = ["finished", "hospitals"]  # fixtures
Tiny = Callable[..., SimulationConfig]
DONE = "Completed: every site has its model."


def blocks_of(page: Page, id: str) -> list[Block]:
    """All blocks of a section, also those in grids and folds."""

    def flat(blocks: object) -> list[Block]:
        found: list[Block] = []
        for block in blocks:  # type: ignore[attr-defined]
            inner = block.items if isinstance(block, Grid) else block.blocks if isinstance(block, Fold) else ()
            found += [block, *flat(inner)]
        return found

    return flat(next(section.blocks for section in page.sections if section.id == id))


def table(page: Page, id: str, caption: str) -> Table:
    return next(one for one in blocks_of(page, id) if isinstance(one, Table) and one.caption.startswith(caption))


def test_a_completed_run_says_so(finished: Path, hospitals: Hospitals, cdtl: Cdtl) -> None:
    assert page_of(finished).status == page_of(hospitals.coordinator).status == DONE
    assert page_of(finished, site="alba").status.startswith("Completed at this site")
    assert page_of(hospitals.homes["alba"]).status.startswith("Completed at this site")
    assert cdtl("report", finished).out.startswith(DONE)
    assert f'<p class="state">{DONE}</p>' in page_html(page_of(finished))
    assert "✓ completed" in page_html(page_of(hospitals.coordinator))


def test_a_run_that_is_not_completed_says_how_far_it_is(hospitals: Hospitals, tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    shutil.copytree(hospitals.coordinator, folder, ignore=shutil.ignore_patterns("checkpoints"))
    state = folder / "runs" / "study" / "run.json"
    lines = (folder / "runs" / "study" / "rounds.jsonl").read_text().splitlines()
    (folder / "runs" / "study" / "rounds.jsonl").write_text(lines[0] + "\n")
    state.write_text(json.dumps({**json.loads(state.read_text()), "status": "failed", "reason": "too few sites."}))
    assert page_of(folder).status == "Failed: 1 of 2 rounds are complete. too few sites."


def test_bytes_agree_between_the_pages(finished: Path, hospitals: Hospitals) -> None:
    """The coordinator counts what it sent, the site what it received, the last message too."""
    caption = "Bytes of messages"
    for whole, own in (
        (page_of(finished), page_of(finished, site="alba")),
        (page_of(hospitals.coordinator), page_of(hospitals.homes["alba"])),
    ):
        told = {row[1]: row for row in table(whole, "egress", caption).rows if row[0] == "alba"}
        here = {row[1]: row for row in table(own, "egress", caption).rows}
        assert told == here
        assert told["CDTL"][3] != "0 bytes"


def test_the_pool_stands_beside_what_each_part_scored(finished: Path) -> None:
    found = table(page_of(finished), "summary", "Pool and its parts")
    report = json.loads((finished / "report.json").read_text())["sites"][0]
    choice = report["selection"]
    rows = {row[1].removesuffix(" (used)"): row for row in found.rows if row[0] == "alba"}
    assert set(rows) == {"own", "joint", "pool"}
    assert [name for name, row in rows.items() if row[1].endswith("(used)")] == [choice["chosen"]]
    of = dict(zip(found.headers, zip(*(rows[name] for name in ("own", "joint", "pool")), strict=True), strict=True))
    assert of["weight in the pool"] == ("1", f"{choice['share']:.2f}", "–")
    assert of["AUROC"] == tuple(f"{choice['test_auroc'][name]:.3f}" for name in ("own", "joint", "pool"))
    assert set(of["test patients"]) == {str(report["patients"]["test"])}


def test_retention_is_one_figure(played: Played, tiny: Tiny, cdtl: Cdtl) -> None:
    """Terminal, report.json, page and model card."""
    run = played(tiny(methods=("cdtl",), blend={"policy": "fixed", "alpha": 0.8, "settle": 1}))
    kept = json.loads((run.out / "report.json").read_text())["blend"]["retention"]
    told = ", ".join(f"{modality} {value:.2f}" for modality, value in kept.items())
    assert "1.00" not in told
    says = f"Retention of the own offset (1: nothing was shared, 0: a uniform mixture): {told}."
    for page in (page_of(run.out), page_of(run.out, site="alba")):
        assert says in page_html(page)
        assert "Own share" not in page_html(page)
    card = load_card(run.out / "sites" / "alba")
    assert card is not None
    assert card.blend.retention == pytest.approx(kept["ultrasound"], abs=1e-5)


def test_retention_on_the_terminal_is_that_of_the_page(cdtl: Cdtl, tmp_path: Path) -> None:
    fixed = ("--set", "blend.policy=fixed", "--set", "blend.alpha=0.8", "--set", "image.size=32")
    small = ("--set", "model.backbone=stub_net", "--set", "methods=cdtl", "--set", "federation.rounds=3")
    done = cdtl("simulate", "tiny", *fixed, *small, "--out", "run")
    assert done.code == 0, done.err
    (told,) = re.findall(r"retention \(.*?\): (.*)\.\n", done.out)
    assert f": {told}." in page_html(page_of(tmp_path / "run"))
    assert DONE in done.out


def test_every_auroc_on_the_terminal_has_its_test_patients(finished: Path, cdtl: Cdtl) -> None:
    out = cdtl("report", finished).out
    report = json.loads((finished / "report.json").read_text())
    for site in report["sites"]:
        assert f"AUROC on {site['patients']['test']} test patients: " in out
    assert out.count("AUROC") == out.count("AUROC on ")


def test_empty_sections_are_one_line(hospitals: Hospitals) -> None:
    html = page_html(page_of(hospitals.coordinator))
    (line,) = re.findall(r'<p class="empty">(.*ROC and precision-recall.*)</p>', html)
    for title in ("ROC and precision-recall", "Calibration", "Operating point"):
        assert title in line
        assert html.count(f">{title}<") == 1, "neither in the list of sections nor as a heading"
    assert "Example images" in html
