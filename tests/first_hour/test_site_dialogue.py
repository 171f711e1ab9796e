"""`cdtl site init DIR` in a terminal: asks for everything, checks each answer, writes nothing before the end."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config.settings import load_site
from cdtl_core.data.listing.folders import rows_of
from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.deploy.coordinator_address import load_address
from cdtl_core.deploy.enrolment import load_enrolment
from cdtl_core.deploy.invitation import load_invitation
from cdtl_core.deploy.keys import spoken_end
from tests.conftest import Cdtl
from tests.first_hour.terminal import Terminal

INIT = ("site", "init", "north-site")
QUESTIONS = ("Invitation", "The last four groups", "The images", "Where the patient is", "Modality", "Make the key")
BETWEEN = [pytest.mark.slow, pytest.mark.ci]
pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path, cdtl: Cdtl) -> Path:
    """An invitation, and images in class folders whose labels have other names."""
    assert cdtl("server", "init", "hub", "--name", "localhost", "--port", "8555").code == 0
    assert cdtl("server", "invite", "hub", "north", "--out", "north.json").code == 0
    write_phantoms(tmp_path / "drafts", modality="ultrasound", num_patients=16, seed=0, size=48)
    for number, row in enumerate(rows_of(tmp_path / "drafts")):
        target = tmp_path / "images" / row.label.title() / f"{row.patient}_{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        row.file.rename(target)
    return tmp_path


def spoken(folder: Path) -> str:
    return spoken_end(load_invitation(folder / "north.json").fingerprint)


def to_the_end(terminal: Terminal, folder: Path) -> None:
    terminal.answer("Invitation, a file from the coordinator [north.json]")
    terminal.answer("The last four groups", spoken(folder))
    terminal.answer("The images: a manifest.csv", "images")
    terminal.answer("Where the patient is in a path, such as {patient}_* [{patient}_*]")
    terminal.answer("Modality", "ultrasound")
    terminal.answer("Your label 'Benign' is the federation's (benign, malignant; - to leave it out) [benign]")
    terminal.answer("Your label 'Malignant' is the federation's (benign, malignant; - to leave it out) [malignant]")


def test_every_answer_is_checked_at_once_and_the_site_is_what_the_command_makes(folder: Path, cdtl: Cdtl) -> None:
    with Terminal(folder, *INIT) as terminal:
        terminal.answer("Invitation, a file from the coordinator [north.json]", "hub/tls/ca.crt")
        assert "ca.crt is not an invitation" in terminal.answer("Invitation")
        terminal.answer("The last four groups", "0000 0000")
        assert "these are not the last groups of the invitation's fingerprint" in terminal.until("Ctrl-C")
        terminal.answer("The last four groups", spoken(folder).upper())
        reached = terminal.answer("The images: a manifest.csv", "nowhere")
        assert "this is the coordinator's invitation" in reached
        assert "Note: localhost:8555 cannot be reached" in reached, "a site may be made before the coordinator runs"
        assert "nowhere does not exist" in terminal.answer("The images", "images")
        assert "by label: Benign" in terminal.answer("Where the patient is", "x{patient}x")
        assert "have no patient by 'x{patient}x'" in terminal.answer("Where the patient is")
        assert "16 patients" in terminal.answer("Modality", "sonography")
        assert "'sonography' is unknown" in terminal.answer("Modality", "ultrasound")
        terminal.answer("Your label 'Benign'", "benig")
        assert "give one of benign, malignant, -" in terminal.answer("Your label 'Benign'")
        terminal.answer("Your label 'Malignant'")
        summary = terminal.until("Make the key, and write the site?")
        assert not (folder / "north-site").exists()
        terminal.answer("")
        assert terminal.end() == 0, terminal.text
    assert "No errors." in summary
    assert load_address(folder / "north-site").port == 8555
    command = shlex.split(summary.partition("The same without questions:\n")[2].splitlines()[0])
    again = cdtl(*(word if word != "north-site" else "again" for word in command[1:]))
    assert again.code == 0, again.err
    made, typed = (load_enrolment(folder / name / "enrolment.json").contract for name in ("north-site", "again"))
    assert made == typed
    assert json.dumps(load_site(folder / "north-site" / "site.toml").model_dump(mode="json")["data"]["label_map"]) == (
        '{"Benign": "benign", "Malignant": "malignant"}'
    )


@pytest.mark.parametrize(
    "question", [pytest.param(one, marks=BETWEEN if one in QUESTIONS[1:-1] else ()) for one in QUESTIONS]
)
def test_nothing_is_written_when_it_is_interrupted(folder: Path, question: str) -> None:
    before = sorted(folder.rglob("*"))
    with Terminal(folder, *INIT) as terminal:
        wanted = QUESTIONS.index(question)
        answers = ("", "later", "images", "", "ultrasound")
        for known, answer in zip(QUESTIONS[:wanted], answers, strict=False):
            terminal.answer(known, answer)
        if question == QUESTIONS[-1]:
            terminal.answer("Your label 'Benign'")
            terminal.answer("Your label 'Malignant'")
        assert terminal.interrupt(question) != 0
        assert "Stopped: nothing was written." in terminal.text
    assert sorted(folder.rglob("*")) == before


def test_a_summary_that_is_not_confirmed_writes_nothing(folder: Path) -> None:
    with Terminal(folder, *INIT) as terminal:
        to_the_end(terminal, folder)
        terminal.answer("Make the key", "n")
        assert terminal.end() == 7
        assert "nothing was written" in terminal.text
    assert not (folder / "north-site").exists()


def test_without_an_invitation_it_asks_for_name_address_and_labels(folder: Path) -> None:
    with Terminal(folder, *INIT) as terminal:
        terminal.answer("Invitation", "none")
        terminal.answer("Name of the site [north]", "North!")
        assert "use a-z, 0-9, - and _" in terminal.answer("Name of the site")
        terminal.answer("The coordinator's address, HOST:PORT [later]", "localhost")
        assert "has no port" in terminal.answer("The coordinator's address", "localhost:8555")
        terminal.answer("Its certificate, ca.crt", "hub/tls/ca.crt")
        terminal.answer("The images", "images")
        terminal.answer("Where the patient is")
        terminal.answer("Modality", "ultrasound")
        terminal.answer("The labels that the federation predicts, separated by commas [Benign,Malignant]", "x")
        assert "at least two labels" in terminal.answer("The labels that the federation predicts")
        terminal.answer("The positive label, of those with the disease [Malignant]")
        terminal.answer("What has a label: image, exam, patient [image]")
        terminal.answer("Make the key")
        assert terminal.end() == 0, terminal.text
    contract = load_enrolment(folder / "north-site" / "enrolment.json").contract
    assert (contract.site, contract.labels, contract.positive) == ("north", ("Benign", "Malignant"), "Malignant")
    assert load_address(folder / "north-site").host == "localhost"


@pytest.mark.parametrize("write", [True, False])
def test_images_with_errors_are_refused_and_their_settings_are_written_only_on_request(
    folder: Path, write: Any
) -> None:
    first = min((folder / "images" / "Benign").glob("*.png"))
    first.write_bytes(b"no image")
    with Terminal(folder, *INIT) as terminal:
        to_the_end(terminal, folder)
        terminal.answer("Write the settings all the same", "y" if write else "n")
        if write:
            terminal.answer("Make the key")
        assert terminal.end() == 4, terminal.text
    assert (folder / "north-site" / "site.toml").exists() == write
    assert not (folder / "north-site" / "site.key").exists()


def test_without_a_terminal_nothing_is_asked(folder: Path, cdtl: Cdtl) -> None:
    done = cdtl(*INIT)
    assert done.code == 2
    assert "a new site needs --name, --modality, --data" in " ".join(done.err.split())
    assert not (folder / "north-site").exists()
