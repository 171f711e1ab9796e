"""The cohort page: self-contained, and safe with any file names."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config.modalities import modality_of
from cdtl_core.data.facts import examine_all
from cdtl_core.quality import CohortCheck, Entry, check_entries
from cdtl_core.report.cohort_page import cohort_html

NASTY = "<script>alert('x')</script>&\".png"


class Tags(HTMLParser):
    """Start tags, attributes that fetch, and whether all tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag not in {"meta", "img", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def check(tmp_path: Path) -> CohortCheck:
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(8)] + [NASTY.replace("/", "_"), "copy.png", "cut.png"]
    entries = []
    for name in names:
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(tmp_path / name)
        entries.append(Entry(tmp_path / name, "benign" if len(entries) % 2 else "<b>malignant</b>", name))
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "cut.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    facts = examine_all([entry.file for entry in entries])
    return check_entries(
        entries, facts, modality=modality_of("mri"), labels=("benign",), switched_off={"few-patients": "<i>pilot</i>"}
    )


def test_the_page_closes_its_tags_fetches_nothing_and_runs_no_script(check: CohortCheck, tmp_path: Path) -> None:
    tags = Tags()
    tags.feed(cohort_html(check, root=tmp_path))
    assert tags.open == []
    assert "script" not in tags.seen
    assert all(value.startswith(("#", "data:image/jpeg;base64,")) for value in tags.fetched)


def test_names_and_labels_are_escaped(check: CohortCheck, tmp_path: Path) -> None:
    page = cohort_html(check, root=tmp_path, title="<h1>site</h1>")
    assert "<script" not in page
    assert "<b>malignant" not in page
    assert "<i>pilot" not in page
    assert "<h1>site" not in page
    assert "&lt;script&gt;" in page


def test_pairs_are_shown_and_unreadable_files_named(check: CohortCheck, tmp_path: Path) -> None:
    page = cohort_html(check, root=tmp_path)
    section = re.search(r'id="opposite-labels".*?</section>', page, re.DOTALL)
    assert section
    assert section[0].count("<img") == 2
    assert "0.png" in section[0]
    assert "copy.png" in section[0]
    assert "cannot be shown" in page
    assert str(tmp_path) not in re.sub(r"the image .*? cannot be decoded", "", page, flags=re.IGNORECASE)


def test_every_rule_in_the_summary_links_to_its_section(check: CohortCheck, tmp_path: Path) -> None:
    page = cohort_html(check, root=tmp_path)
    for finding in check.findings:
        assert f'href="#{finding.rule}"' in page
        assert f'id="{finding.rule}"' in page
        assert finding.advice.split("'")[0] in page


def test_a_cohort_without_findings_says_so(tmp_path: Path) -> None:
    check = check_entries([], [], modality=modality_of("mri"))
    assert "nothing found" in cohort_html(check, root=tmp_path)
