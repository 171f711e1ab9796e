"""Banned words: old-fashioned ones, and terms that have been replaced."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {"CHANGELOG.md", "docs/results.md", "docs/experiments.md", "docs/decisions.md"}
"""They tell what was done under the names of their day."""
EARLIER = {"tests/test_earlier_versions.py", "tests/test_words.py", "cdtl_core/config/validation.py"}
"""They name what earlier versions wrote."""
BANNED = re.compile(
    r"\b(anew|nobody|somebody|whoever|thereby|dear|gatekeeper|spoken of)\b"
    r"|\bto be had\b|\bgone on with\b|\bcame of it\b|\bof its own accord\b|\bmend(s|ed|ing)?\b"
    r"|\bGateConfig\b|\bthe (acceptance )?gate\b|\ba gate\b",
    re.IGNORECASE,
)


@pytest.mark.integration
def test_no_text_has_a_banned_word() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in set(listed.splitlines()) - NOTEBOOKS - EARLIER:
        if name.endswith((".py", ".md", ".toml", ".yml", ".yaml", ".html", ".js", ".mjs")):
            for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
                if match := BANNED.search(line):
                    found.append(f"{name}:{number}: {match[0]}")
    assert not sorted(found)
