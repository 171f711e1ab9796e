"""The docs site, judged without its tools: pages are reached, links lead somewhere, nothing comes from elsewhere."""

import posixpath
import re
import tomllib
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


def steps(title: str) -> list[str]:
    """Modules of a walk in docs/architecture.md, in the order in which it names them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    walk = text.partition(f"## {title}")[2].partition("\n## ")[0]
    return re.findall(
        r"`([a-z_]+(?:/[a-z_]+)+\.py)`", "\n".join(re.findall(r"^\d+\. .*(?:\n   .*)*", walk, re.MULTILINE))
    )


def test_the_walk_of_an_image_takes_no_step_back() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    rank = {package.strip(): -at for at, layer in enumerate(layers) for package in layer.split("|")}
    walked = steps("An image")
    assert len(walked) > 12
    assert [rank[f"cdtl_core.{step.split('/')[0]}"] for step in walked] == sorted(
        rank[f"cdtl_core.{step.split('/')[0]}"] for step in walked
    )


@pytest.mark.parametrize("title", ["An image", "A message"])
def test_every_module_of_a_walk_exists(title: str) -> None:
    assert [step for step in steps(title) if not (ROOT / "cdtl_core" / step).is_file()] == []
