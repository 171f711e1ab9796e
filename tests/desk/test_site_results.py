"""The site's desk: its images, and after a run models, reports, predictions of an upload, logs and the budget."""

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import SimulationConfig
from cdtl_core.config.settings import save_toml
from cdtl_core.desk.desk import Desk
from cdtl_core.desk.site import site_desk
from cdtl_core.privacy.ledger import Budget, commit, open_ledger, reserve
from tests.conftest import Played
from tests.deploy.desk import with_initial_weights
from tests.desk.person import Person, served

Tiny = Callable[..., SimulationConfig]
NASTY = "<script>alert('x')</script>"


@pytest.fixture
def home(played: Played, tiny: Tiny, tmp_path: Path) -> Path:
    """A site with a model, whose positive label is markup."""
    phantom = {"phantom": {"patients": 16, "seed": 1}, "label_map": {"malignant": NASTY}}
    sites = [
        {"site": name, "modality": "ultrasound", "labels": ["benign", NASTY], "data": phantom}
        for name in ("alba", "bari")
    ]
    task = {"labels": ("benign", NASTY), "positive": NASTY}
    config = tiny(sites=sites, task=task, federation={"rounds": 2})
    return played(config).copied(tmp_path / "run") / "sites" / "alba"


@pytest.fixture
def desk(home: Path) -> Iterator[Desk]:
    with served(lambda port, doors: site_desk(home, port, doors)) as found:
        yield found


def image_of(home: Path) -> bytes:
    return next(iter(sorted(home.glob("cache/**/*.png")))).read_bytes()


def ask(person: Person, name: str, content: bytes, model: str = "tiny-cdtl", **fields: str) -> Any:
    return person.fill("/predict", "/predict", {"image": (name, content)}, model=model, **fields)


def test_one_image_is_predicted_and_removed(home: Path, person: Person, tmp_path: Path, monkeypatch: Any) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    told = ask(person, "P001_<b>1</b>.png", image_of(home)).text
    assert "Called: " in told
    assert "P001_&lt;b&gt;1&lt;/b&gt;.png" in told
    assert "sensitivity" in told
    assert "Research use only, not a medical device." in told
    assert "<script>alert" not in told
    assert list(scratch.iterdir()) == []


def bomb() -> bytes:
    """A PNG of a few kilobytes that claims 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.attack("An upload is only an image", "a bomb, no image, a table of paths, odd names, another model")
def test_what_is_no_image_is_a_sentence_and_names_no_file_of_this_machine(
    home: Path, person: Person, tmp_path: Path, tries: Any
) -> None:
    table = f"file,label,patient_id\n{home / 'site.toml'},benign,p1\n".encode()
    image = image_of(home)
    for name, content, model, said in (
        ("bomb.png", bomb(), "tiny-cdtl", "bomb.png"),
        ("text.png", b"no image", "tiny-cdtl", "text.png"),
        ("empty.dcm", b"", "tiny-cdtl", "empty.dcm"),
        ("manifest.csv", table, "tiny-cdtl", "a table is no image"),
        ("MANIFEST.TSV", table, "tiny-cdtl", "a table is no image"),
        ("cut.png", image[: len(image) // 2], "tiny-cdtl", "cut.png"),
        ("a.png", image, "../tiny-cdtl", "Choose one of the models"),
        ("a.png", image, "", "Choose one of the models"),
    ):
        answer = ask(person, name, content, model)
        assert answer.status_code == 400, name
        assert said in answer.text
        assert "cdtl-image-" not in answer.text
        assert str(home) not in answer.text
        tries.add()
    assert "Choose an image." in person.fill("/predict", "/predict", model="tiny-cdtl").text
    for name in ("../../../etc/passwd", "..", "a/../b.png", "*.png", "[x].png", f"{'x' * 400}.png", "..png"):
        assert ask(person, name, image).status_code == 200, name
        tries.add()
    assert person.get("/predict").status_code == 200


def test_models_and_reports_show_foreign_labels_as_text(person: Person) -> None:
    for path in ("/models", "/models/tiny-cdtl", "/reports/tiny", "/", "/left", "/runs"):
        answer = person.get(path)
        assert answer.status_code == 200, path
        assert "<script>" not in answer.text
    assert "AUROC on test patients" in person.get("/models/tiny-cdtl").text
    report = person.get("/reports/tiny")
    assert "alba: results of tiny" in report.text
    policy = report.headers["content-security-policy"]
    assert "script-src" not in policy
    assert "style-src 'sha256-" in policy


def test_the_page_about_privacy_says_what_is_spent_and_what_a_run_would_cost(
    home: Path, person: Person, tiny: Tiny
) -> None:
    assert "sent updates without differential privacy in tiny-cdtl" in person.get("/privacy").text
    open_ledger(home / "privacy", site="alba", num_patients=200)
    budget = Budget(target_epsilon=4.0, target_delta=1e-4, sample_rate=0.5, steps=30)
    reservation = reserve(home / "privacy", run="study", round=1, steps=12, budget=budget)
    assert reservation is not None
    commit(home / "privacy", reservation, 12)
    told = person.get("/privacy").text
    assert "12 of 30" in told
    assert "changes the probability of everything the site has sent" in told
    assert "Not covered: This site also sent updates without" in told


def test_a_damaged_log_is_seen(home: Path, person: Person, tiny: Tiny) -> None:
    from cdtl_core.deploy.refusing import refuse

    run = with_initial_weights(tiny().run)
    for number in range(3):
        refuse(home, f"{number}" * 16, run.name, note=f"Dr. Roe: reason {number}")
    told = person.get("/left").text
    assert "whole, 3 lines" in told
    assert "Head: <code>approvals:3:" in told
    log = home / "logs" / "approvals.jsonl"
    log.write_text(log.read_text().replace("reason 1", "reason 7"))
    assert "FAULTS" in person.get("/left").text


def test_the_images_are_checked_in_the_background(tmp_path: Path) -> None:
    rng, images, home = np.random.default_rng(0), tmp_path / "images", tmp_path / "alba"
    rows = ["file,label,patient_id"]
    images.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(images / f"{number}.png")
        rows.append(f"{number}.png,{'benign' if number % 2 else NASTY},p{number}")
    (images / "manifest.csv").write_text("\n".join(rows) + "\n")
    data = {"root": str(images), "manifest": "manifest.csv"}
    save_toml(home / "site.toml", {"site": "alba", "modality": "ultrasound", "data": data})
    with served(lambda port, doors: site_desk(home, port, doors)) as desk:
        person = Person(desk.port)
        person.open(desk.link())
        assert person.get("/images/findings").url.path.endswith("/images")
        person.fill("/images", "/images")
        told = ""
        for _ in range(600):
            told = person.get("/images").text
            if "data-live" not in told:
                break
        assert "12 images (12 readable) of 12 patients" in told
        assert "few-patients" in told
        assert "<script>" not in told.replace("<script src", "")
        page = person.get("/images/findings")
        assert page.headers["content-security-policy"].startswith(
            "default-src 'none'; img-src data:; style-src 'sha256-"
        )
        assert "<script>" not in page.text
