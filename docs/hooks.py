"""MkDocs hooks: pages that lie outside docs/, and GitHub's Markdown as Python-Markdown reads it."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = {
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docker/README.md": "containers.md",
}
"""File in the repository to its page in the site."""
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_ITEM = re.compile(r"\s*([-*]|\d+\.) ")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    root = Path(config.docs_dir).parent
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they are from the page's place in the site, and lists as Python-Markdown wants them."""
    here = page.file.src_uri
    source = next((name for name, uri in OUTSIDE.items() if uri == here), f"docs/{here}")

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if target not in OUTSIDE and not target.startswith("docs/"):
            return text  # a file of the repository that is no page
        uri = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor or ''})"

    return "\n".join(_lines(_LINK.sub(link, markdown)))


def _lines(text: str) -> Iterator[str]:
    """An empty line before each list and table, and four spaces for each level of a list."""
    fence, before, options = "", "", False
    for line in text.split("\n"):
        bare = line.lstrip()
        options = bare.startswith(":::") or (options and line.startswith(" "))  # of mkdocstrings: as they are
        if options:
            before = line
        elif not fence:
            level = round((len(line) - len(bare)) / 2.5)  # two spaces for a bullet, three for a number
            starts = bool(_ITEM.match(line)) and not _ITEM.match(before) and not before.startswith(" ")
            if (starts or (line.startswith("|") and not before.startswith("|"))) and before.strip():
                yield ""
            indent, before = " " * 4 * level, line
            line = indent + bare
            fence = indent + "```" if bare.startswith("```") else ""
        else:
            line = fence[:-3] + line.removeprefix(" " * (len(before) - len(before.lstrip())))
            fence = "" if bare == "```" else fence
        yield line
