"""The first afternoon: from a PACS to the first accepted update, as one person's steps. `make pacs` prints them."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from cdtl_core.config import RunConfig
from cdtl_core.data.listing.folders import rows_of
from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.deploy.invitation import load_invitation, make_invitation, save_invitation
from cdtl_core.deploy.keys import spoken_end
from tests.deploy.afternoon import Afternoon
from tests.deploy.deployment import MODEL
from tests.deploy.joined import Make, Tiny, make
from tests.pacs.orthanc import PROGRAM, Orthanc
from tests.pacs.studies import image, known
from tests.tables import Figures

__all__ = ["make"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM.exists(), reason="Orthanc is not installed: make pacs")]
MOST_STEPS, MOST_S = 15, 600.0
SIZE = 160


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    one = Orthanc(tmp_path / "orthanc")
    one.start()
    try:
        yield one
    finally:
        one.kill()


def test_a_new_engineer_gets_from_a_pacs_to_an_accepted_update_in_fifteen_steps(
    tiny: Tiny, make: Make, tmp_path: Path, orthanc: Orthanc, figures: Figures
) -> None:
    """Default settings; all that the coordinator does is to invite and admit the site, and to ask for a run."""
    table = fill(orthanc, tmp_path / "drafts", patients=40)
    others = [site.model_dump(exclude_none=True) for site in tiny().sites[2:]]
    config = RunConfig(name="first", federation={"rounds": 4, "min_sites": 2, "join_timeout_s": 300.0})  # type: ignore[arg-type]
    deployment = make(tiny(model=MODEL, sites=others))
    deployment.start_all()
    deployment.connected(400.0)
    office, desk = deployment.coordinator, tmp_path / "desk"
    desk.mkdir()
    save_invitation(desk / "zeno.json", make_invitation(office, "zeno", config.task))  # by mail
    (desk / "studies.csv").write_text(table)  # an export of the hospital's own list
    began, person = time.monotonic(), Afternoon(desk)

    person.write("pacs.toml", f'protocol = "dicomweb"\n[dicomweb]\nurl = "{orthanc.web}"\n')
    person.command("data", "pull", "images", "--accessions", "studies.csv")
    fingerprint = load_invitation(desk / "zeno.json").fingerprint
    person.call("the coordinator reads out its fingerprint, and hears the site's", groups=32)
    told = person.talk(
        "site", "init", "zeno",
        answers={
            "Invitation": "", "The last four groups": spoken_end(fingerprint), "The images": "", "Modality": "",
            "Make the key": "",
        },
    )  # fmt: skip
    assert "[images/manifest.csv]" in told
    assert "dermoscopy [ultrasound]" in told, "the modality is known from the PACS"
    deployment.homes["zeno"] = desk / "zeno"
    admit(office, desk / "zeno" / "enrolment.json")
    assert "this site is admitted" in person.command("site", "check", "zeno")
    person.service("site", "start", "zeno")
    deployment.start("zeno")
    run = deployment.request(config)
    deployment.approve(run, "como")
    deployment.play(run)
    deployment.until(lambda: any((desk / "zeno" / "pending").glob("*.json")), 300.0, "the run at zeno")
    person.talk("site", "approve", "zeno", "first", answers={"Approve this run at this site?": "y"})
    deployment.until(lambda: (run / "rounds.jsonl").exists(), 900.0, "the first round")
    assert "zeno" in deployment.lines(run)[0]["sites"]
    for line in person.lines():
        figures(line[:97].rstrip(), line[97:])
    figures("first afternoon: commands, answers and files; at most 15", str(person.count))
    figures("first afternoon: a person's time by the keystroke-level model; at most 600 s", f"{person.person_s:.0f} s")
    figures(
        "first afternoon: waiting for commands; from the first step to the update",
        f"{person.machine_s:.0f} s; {time.monotonic() - began:.0f} s",
    )
    assert person.count <= MOST_STEPS
    assert person.person_s < MOST_S
    deployment.stop()


def admit(office: Path, enrolment: Path) -> None:
    """What the coordinator does after the call."""
    from cdtl_core.deploy.enrolment import load_enrolment
    from cdtl_core.deploy.members import admit as admit_site

    admit_site(office, load_enrolment(enrolment))


def fill(orthanc: Orthanc, folder: Path, *, patients: int) -> str:
    """Put one study for each image of synthetic patients into the PACS; returns the table of labels."""
    write_phantoms(folder, modality="ultrasound", num_patients=patients, seed=5, size=SIZE)
    lines, studies = ["accession_number,label"], []
    for number, row in enumerate(rows_of(folder)):
        studies.append(as_dicom(number, row.patient, row.file))
        lines.append(f"{known(number).accession},{row.label}")
    orthanc.upload(studies)
    shutil.rmtree(folder)
    return "\n".join(lines) + "\n"


def as_dicom(number: int, patient: str, file: Path) -> Dataset:
    one = image(number, 0, 0, size=SIZE)
    one.PatientID = f"MRN-{patient}"
    with Image.open(file) as picture:
        one.PixelData = np.asarray(picture.convert("L").resize((SIZE, SIZE))).tobytes()
    return one
