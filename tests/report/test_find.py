"""The report of every kind of folder: all sections, no external resources, no patient data where forbidden."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cdtl_core.errors import ConfigError
from cdtl_core.report.find import page_of, page_without_patients
from cdtl_core.report.page import SECTIONS, Page, page_html
from tests.report.conftest import NASTY, Hospitals

VOID = {"meta", "img", "link", "br", "path", "rect"}


class Reader(HTMLParser):
    """Whether all tags close, what is fetched, which ids there are, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if found.get("id") else []  # type: ignore[list-item]
        self.fetched += [found[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in found]
        assert not {"style", "onclick", "onload"} & set(found), tag
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: Page) -> tuple[str, Reader]:
    text = page_html(page)
    reader = Reader(text)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert [id for id in reader.ids if id in SECTIONS] == list(SECTIONS)
    assert all(value.startswith(("#", "data:")) for value in reader.fetched)
    assert len(text.encode()) < 3e6
    for section in page.sections:
        assert section.blocks or section.why.endswith((".", "NAME")), section.id
    return text, reader


def says(page: Page, id: str) -> str:
    text = page_html(page)
    line = rf'<p class="empty">[^\n]*<b id="{id}">[^\n]*</p>'
    match = re.search(rf'<section id="{id}".*?</section>|{line}', text, re.DOTALL)
    assert match
    return match[0]


def patients_things(home: Path) -> list[str]:
    """Names of files, and scores as they are on disk."""
    rows = [line.split(",") for path in home.glob("models/*/*.csv") for line in path.read_text().splitlines()[1:]]
    assert rows
    return [cell for row in rows for cell in (row[0], *row[3:]) if len(cell) > 4]


def test_a_simulations_report_has_every_section_and_no_image(finished: Path) -> None:
    page = page_of(finished)
    text, reader = read(page)
    assert "img" not in reader.tags
    assert "script" not in reader.tags
    assert [section.id for section in page.sections if not section.blocks] == ["privacy", "examples"]
    assert "SYNTHETIC" in text
    assert not [
        thing for site in ("alba", "como") for thing in patients_things(finished / "sites" / site) if thing in text
    ]
    assert str(finished) not in text


def test_the_headline_says_what_report_json_says(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    alba, como = report["sites"]
    text = says(page_of(finished), "summary")
    gain = alba["gain"]["cdtl-alone"]
    assert f"{gain['low']:+.3f}".replace("-", "−") in text
    better, worse = gain["low"] > 0, gain["high"] < 0
    wanted = "better than local" if better else "worse than local" if worse else "no evidence of gain"
    assert wanted in text.split("como")[0]
    assert como["gain"]["cdtl-alone"]["low"] is None
    kept = como["selection"]["chosen"] == "own"
    assert ("the site uses its own model" if kept else "allow no interval") in text
    assert f"Model used: {'the own one' if alba['selection']['chosen'] == 'own' else 'the pool'}" in text


def test_the_operating_point_is_chosen_on_validation_patients(finished: Path) -> None:
    text = says(page_of(finished), "operating")
    assert re.search(r"chosen on 7 validation patients .* not on test patients", text)


def test_a_sites_own_report_shows_images_and_is_told_to_stay(finished: Path) -> None:
    page = page_of(finished, site="alba")
    text, reader = read(page)
    assert reader.tags.count("img") >= 3
    images = [value for value in reader.fetched if value.startswith("data:image/jpeg;base64,")]
    assert len(images) == reader.tags.count("img")
    assert all(base64.b64decode(image.partition(",")[2]).startswith(b"\xff\xd8") for image in images)
    assert "it stays at the site" in page.keep
    assert "como" not in text
    assert "como" not in page.title
    same = page_html(page_of(finished / "sites" / "alba"))
    assert same == text


def test_the_same_folder_gives_the_same_page(finished: Path) -> None:
    assert page_html(page_of(finished)) == page_html(page_of(finished))


def test_names_are_escaped(nasty: Path) -> None:
    for site in ("", "alba"):
        text, reader = read(page_of(nasty, site=site))
        assert "script" not in reader.tags
        assert "&lt;script&gt;" in text
        assert NASTY not in text
    card = (nasty / "sites" / "alba" / "model_card.md").read_text()
    assert "<script" not in card


def test_a_coordinators_report_holds_what_it_was_told_and_nothing_of_a_patient(hospitals: Hospitals) -> None:
    page = page_of(hospitals.coordinator)
    text, reader = read(page)
    assert page_html(page_of(hospitals.run)) == text
    assert "img" not in reader.tags
    for site, home in hospitals.homes.items():
        assert site in text
        assert not [thing for thing in patients_things(home) if thing in text]
    assert "as the site enrolled" in says(page, "cohorts").lower()
    assert ">50<" in says(page, "cohorts")  # 48 patients, rounded
    for id in ("discrimination", "calibration", "operating", "examples"):
        assert "never leave a site" in says(page, id)
    bundle = json.loads((hospitals.run / "request.json").read_text())["bundle_sha256"]
    assert bundle in says(page, "run")


def test_a_hospitals_own_report_knows_its_approvals_and_what_its_filter_wrote(hospitals: Hospitals) -> None:
    page = page_of(hospitals.homes["alba"])
    _, reader = read(page)
    assert "img" in reader.tags
    assert "Approved for study" in says(page, "egress")
    assert "4.3 kB left in the bodies of requests" in says(page, "egress")
    assert "Between hospitals a site does not get the matrices" in says(page, "blend")
    bundle = json.loads((hospitals.run / "request.json").read_text())["bundle_sha256"]
    assert bundle in says(page, "run")
    assert "como" not in "".join(says(page, id) for id in SECTIONS if id != "run")  # settings name who takes part


def test_a_run_that_has_not_ended_says_so_everywhere(finished: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(finished, cut)
    (cut / "report.json").unlink()
    for path in cut.glob("sites/*/models"):
        shutil.rmtree(path)
    lines = (cut / "rounds.jsonl").read_text().splitlines()
    (cut / "rounds.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])
    page = page_without_patients(cut, live=True)
    text, reader = read(page)
    assert reader.tags.count("script") == 1
    assert "data-live" in text
    assert "local, round 2 of 3" in says(page, "summary")
    assert "figure" in says(page, "rounds")
    (cut / "rounds.jsonl").unlink()
    read(page_without_patients(cut, live=True))


def test_what_is_no_report_is_refused_in_a_sentence(finished: Path, tmp_path: Path) -> None:
    for folder, site in ((tmp_path, ""), (finished, "roma"), (finished / "sites" / "alba", "alba")):
        with pytest.raises(ConfigError, match=str(folder)):
            page_of(folder, site=site)
    with pytest.raises(ConfigError, match="patients' images"):
        page_without_patients(finished / "sites" / "alba")
    with pytest.raises(ConfigError, match="no run other"):
        page_of(finished / "sites" / "alba", run="other")


def test_a_private_run_shows_its_ledger_and_which_figures_were_not_sent(private: Path) -> None:
    page = page_of(private)
    read(page)
    text = says(page, "privacy")
    spent = json.loads((private / "report.json").read_text())["sites"][0]["privacy"]["cdtl"]
    assert f"{spent['epsilon_rdp']:.3f}" in text
    assert "como: without differential privacy" in text
    assert "sends no loss" in says(page, "rounds") or "como" in says(page, "rounds")
    own = page_of(private, site="alba")
    read(own)
    assert f"{spent['epsilon_rdp']:.3f}" in says(own, "privacy")
    card = (private / "sites" / "alba" / "model_card.md").read_text()
    assert "Differentially private for each training patient" in card
    assert "No differential privacy" in (private / "sites" / "como" / "model_card.md").read_text()
