"""The docs site, judged without its tools: pages are reached, links lead somewhere, nothing comes from elsewhere."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdtl_core.system.shipped import bundle_root

ROOT = bundle_root()
TEXT = (ROOT / "mkdocs.yml").read_text()
SITE = yaml.safe_load(re.sub(r"!!python\S+", "", TEXT))
OUTSIDE = dict(re.findall(r'^    "(.+?)": "(.+?)",$', (ROOT / "docs" / "hooks.py").read_text(), re.MULTILINE))
PAGES = [ROOT / name for name in ("README.md", *OUTSIDE)] + sorted((ROOT / "docs").rglob("*.md"))
FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def leaves(tree: Any) -> Iterator[str]:
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from leaves(part)
    if isinstance(tree, str):
        yield tree


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in plain}


def test_every_page_is_reached_from_the_navigation_and_the_lab_notebooks_stand_apart() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(leaves(SITE["nav"])) == sorted(pages | set(OUTSIDE.values()))
    groups = {name: set(leaves(part)) for group in SITE["nav"] for name, part in group.items()}
    assert {"results.md", "experiments.md", "decisions.md"} <= groups["Lab notebooks"]
    assert {"researcher.md", "hospital.md", "coordinator.md"} <= groups["User guide"]


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]*)?\)", FENCED.sub("", page.read_text())):
        found = Path(posixpath.normpath(page.parent / target)) if target else page
        assert found.exists(), target
        assert not anchor or anchor[1:] in anchors(found), f"{target}{anchor}"


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert SITE["strict"] is True
    assert SITE["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & set(SITE)
    assert not re.search("https?://", TEXT)
