"""The first afternoon: from a folder of images to an accepted update, by commands alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdtl_core.config import RunConfig
from cdtl_core.data.listing.folders import rows_of
from cdtl_core.data.synthetic.writing import write_phantoms
from tests.deploy.conftest import Figures
from tests.deploy.deployment import MODEL
from tests.deploy.joined import Make, Tiny, make

__all__ = ["make"]
pytestmark = pytest.mark.slow


def test_a_new_engineer_gets_from_a_folder_of_images_to_an_accepted_update_in_ten_minutes(
    tiny: Tiny, make: Make, tmp_path: Path, figures: Figures
) -> None:
    """Commands and default settings only; all that the coordinator does is to admit the site and ask for a run."""
    images = tmp_path / "images"
    write_class_folders(images, patients=40)
    others = [site.model_dump(exclude_none=True) for site in tiny().sites[2:]]
    run_config = RunConfig(name="first", federation={"rounds": 4, "min_sites": 2, "join_timeout_s": 300.0})  # type: ignore[arg-type]
    deployment = make(tiny(model=MODEL, sites=others))
    deployment.start_all()
    deployment.connected()
    home, began = tmp_path / "engineer", time.monotonic()
    pattern = r"^(p[0-9a-f]+)_"
    asked = ["--name", "zeno", "--modality", "ultrasound", "--data", str(images), "--patient-pattern", pattern]
    cdtl("site", "init", str(home), *asked)
    cdtl("server", "admit", str(deployment.coordinator), str(home / "enrolment.json"), "--yes")
    where = ["--server", f"localhost:{deployment.port}", "--ca", str(deployment.ca)]
    checked = cdtl("site", "check", str(home), *where)
    assert "this site is admitted" in checked
    assert "with the default settings, measured in a" in checked
    figures("a new engineer: init, admission, check with rehearsal", f"{time.monotonic() - began:.0f} s")
    run = deployment.request(run_config)
    deployment.approve(run, "como")
    deployment.play(run)
    deployment.homes["zeno"] = home
    deployment.start("zeno")
    cdtl("site", "approve", str(home), str(run / "request.json"), "--yes")
    deployment.until(lambda: (run / "rounds.jsonl").exists(), 500.0, "the first round")
    took = time.monotonic() - began
    figures("a new engineer: images to first accepted update", f"{took:.0f} s")
    assert "zeno" in deployment.lines(run)[0]["sites"]
    assert took < 600
    deployment.stop()


def write_class_folders(images: Path, *, patients: int) -> None:
    """PNG files in a folder per label, the patient in each file's name, as an export often leaves them."""
    drafts = images.with_name("drafts")
    write_phantoms(drafts, modality="ultrasound", num_patients=patients, seed=5, size=160)
    for number, row in enumerate(rows_of(drafts)):
        target = images / row.label / f"p{row.patient.strip('p')}_{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        row.file.rename(target)


def cdtl(*arguments: str) -> str:
    """Run a command as a person does; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cdtl_core.cli.main", *arguments], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
