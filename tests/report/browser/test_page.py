"""The demo's report in a real browser: `make page`. Screenshots are left in CDTL_SHOTS, to be looked at."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.inference.export import TOLERANCE, export_onnx
from cdtl_core.report.find import page_of
from cdtl_core.report.page import SECTIONS, page_html
from cdtl_core.system.processes import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
MODULES = HERE / "node_modules"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: make page installs Debian's"),
    pytest.mark.skipif(not (MODULES / "axe-core").exists(), reason="no axe-core: make page installs it by npm"),
]


def cdtl(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """The command line of this tree, as a process of its own."""
    command = [sys.executable, "-m", "cdtl_core.cli.main", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdout=-1, stderr=-1, **options)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's run directory: that of CDTL_DEMO, else played now."""
    if given := os.environ.get("CDTL_DEMO"):
        return Path(given)
    out = tmp_path_factory.mktemp("demo") / "demo"
    _, errors = (process := cdtl("simulate", "demo", "--out", out)).communicate(timeout=1800)
    assert process.returncode == 0, errors
    return out


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for screenshots."""
    folder = Path(os.environ.get("CDTL_SHOTS", "") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def look(url: str, out: Path, *text: str) -> dict[str, Any]:
    """Return the findings of a browser."""
    out.mkdir(parents=True, exist_ok=True)
    command = ["node", str(HERE / "look.mjs"), url, str(out), *text]
    env = {**os.environ, "CHROMIUM": CHROMIUM}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def judge(found: dict[str, Any], own: str) -> None:
    assert found["ids"] == list(SECTIONS)
    assert all(section["title"] == SECTIONS[section["id"]] for section in found["sections"])
    assert all(section["length"] > 80 for section in found["sections"])
    assert found["console"] == []
    assert [url for url in found["requests"] if url not in {own, "data:"}] == []
    assert [one for one in found["axe"] if one["impact"] in {"serious", "critical"}] == []
    assert found["axe"] == []
    assert found["overflow"] == []
    assert found["used"] > 0.93, "at 1280 px a part of the width is unused"
    assert found["first_focus"] == "#summary"


def test_the_demos_report_is_whole_silent_and_accessible(demo: Path, shots: Path) -> None:
    page = demo / "report.html"
    _, errors = (process := cdtl("report", demo)).communicate(timeout=300)
    assert process.returncode == 0, errors
    assert page.stat().st_size < 3e6
    found = look(page.as_uri(), shots / "run")
    judge(found, page.as_uri())
    by_id = {section["id"]: section for section in found["sections"]}
    assert sum(section["images"] for section in by_id.values()) == 0
    assert by_id["discrimination"]["figures"] == 8
    assert by_id["rounds"]["figures"] == 12
    picture = shots / "run" / "top.png"
    assert picture.stat().st_size < 300_000
    if target := os.environ.get("CDTL_PICTURE"):
        shutil.copyfile(picture, target)


def test_a_sites_own_report_is_too_and_shows_images(demo: Path, shots: Path) -> None:
    page = demo / "sites" / "north" / "report.html"
    page.write_text(page_html(page_of(demo, site="north")), encoding="utf-8")
    found = look(page.as_uri(), shots / "site")
    judge(found, page.as_uri())
    assert {section["id"]: section["images"] for section in found["sections"]}["examples"] >= 4


@pytest.mark.filterwarnings("ignore")
def test_onnx_says_what_torch_says_of_the_sites_own_images(demo: Path, tmp_path: Path) -> None:
    for site in ("north", "south", "west"):
        images = sorted((demo / "sites" / site).glob("cache/phantoms-*/images/*.png"))[:24]
        assert len(images) == 24
        assert (
            export_onnx(demo / "sites" / site, tmp_path / f"{site}.onnx", tuple(images)).largest_difference <= TOLERANCE
        )


def test_a_served_page_brings_itself_up_to_date(demo: Path, tmp_path: Path, shots: Path) -> None:
    """The page is opened after the first round of the last method; the others are written while it is open."""
    run = tmp_path / "run"
    shutil.copytree(demo, run, ignore=shutil.ignore_patterns("checkpoints", "memory", "report.*", "models"))
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join(lines[:8]))
    port = free_port()
    server = cdtl("server", "page", run, "--port", port)
    url = f"http://127.0.0.1:{port}/"
    try:
        _await(url)
        looking = subprocess.Popen(
            ["node", str(HERE / "look.mjs"), url, str(_made(shots / "live")), "CDTL, round 6 of 6"],
            env={**os.environ, "CHROMIUM": CHROMIUM}, text=True, stdout=-1, stderr=-1,
        )  # fmt: skip
        for line in lines[8:13]:
            time.sleep(3)
            with open(run / "rounds.jsonl", "a") as file:
                file.write(line)
        out, errors = looking.communicate(timeout=200)
        assert looking.returncode == 0, errors
        found = json.loads(out)
        assert found["console"] == []
        assert set(found["requests"]) <= {url, "data:"}
        assert found["requests"].count(url) >= 3
        assert [one for one in found["axe"] if one["impact"] in {"serious", "critical"}] == []
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_simulate_open_serves_the_run_and_leaves_its_report(tmp_path: Path) -> None:
    settings = ["image.size=32", "model.backbone=test_efficientnet", "model.weights=random", "train.steps=1"]
    settings += ["federation.rounds=3", "methods=alone,cdtl"]
    words = [word for setting in settings for word in ("--set", setting)]
    note = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {note}\n')
    browser.chmod(0o755)
    process = cdtl("simulate", "demo", "--open", "--out", tmp_path / "run", *words, env={"BROWSER": str(browser)})
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "SYNTHETIC" in out
    assert note.read_text().startswith("http://127.0.0.1:")
    assert note.read_text().strip() in errors
    text = (tmp_path / "run" / "report.html").read_text()
    assert "data-live" not in text
    assert all(f'id="{id}"' in text for id in SECTIONS)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answered on {url}")
