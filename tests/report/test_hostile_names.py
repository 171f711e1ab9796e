"""Names and reasons from other parties reach a page as text."""

import json
import shutil
from pathlib import Path

import pytest

from cdtl_core.report.coordinator import coordinator_page
from cdtl_core.report.page import page_html
from tests.report.conftest import Hospitals

MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); '",
    "</title></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "]]>--><b>",
]


@pytest.mark.parametrize("text", MARKUP)
def test_names_of_sites_groups_and_methods_and_reasons_are_text(
    hospitals: Hospitals, tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "coordinator"
    shutil.copytree(hospitals.coordinator, folder, ignore=shutil.ignore_patterns("checkpoints"))
    run = folder / "runs" / hospitals.run.name
    played = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in played:
        line["method"] = line["method"]
        if "sites" in line:
            line["refused"] = {text: text, "como": f"quarantined since round 1: {text}"}
            line["absent"], line["joined"], line["spent"] = [text], [text], [text]
            line["groups"] = [text for _ in line["groups"]]
            line["sites"] = {**line["sites"], text: next(iter(line["sites"].values()))}
        else:
            line["missing"] = {text: text}
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in played))
    page = page_html(coordinator_page(run))
    assert "quarantined since round 1" in page
    for part in ("<script>alert", "<img src=x", "<svg onload", "<b>", "7 * 7 }}{% raw %}</a"):
        assert part not in page
    if "<" in text:
        assert text not in page
    assert "49{" not in page
    assert 'href="javascript' not in page
