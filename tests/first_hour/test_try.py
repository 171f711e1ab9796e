"""`cdtl try`: one command from nothing to a report, with real processes; nothing of them is left however it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from cdtl_core.config.settings import load_config
from cdtl_core.simulation.simulate import simulate
from tests.conftest import Cdtl

MARK = "CDTL_TEST_TRY"


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Trial:
    """`cdtl try tiny` as a process; its lines are read while it runs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out, self.mark, self.lines = folder / "trial", folder.name, list[str]()
        command = [sys.executable, "-m", "cdtl_core.cli.main", "try", "tiny", "--out", str(self.out), *arguments]
        env = {**os.environ, MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._came, self._seen = threading.Condition(), set[psutil.Process]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._came:
                    self.lines.append(line)
                    self._came.notify_all()
        with self._came:
            self.lines.append("(end)")
            self._came.notify_all()

    def until(self, pattern: str) -> "re.Match[str]":
        """Wait for a line; the programs that run by then are remembered."""

        def found() -> "re.Match[str] | None":
            return next((one for line in self.lines if (one := re.search(pattern, line))), None)

        with self._came:
            assert self._came.wait_for(lambda: found() or self.lines[-1:] == ["(end)"], 240), self.text
        match = found()
        assert match, f"no line {pattern}: {self.text}"
        with suppress(psutil.Error):  # it has ended meanwhile
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        return match

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def program(self, *words: str) -> psutil.Process:
        """The program whose command holds these words."""
        return next(one for one in filter(alive, self._seen) if " ".join(words) in " ".join(one.cmdline()))

    def ended(self) -> int:
        code = self.process.wait(240)
        self._reader.join()
        return code

    def left(self) -> list[psutil.Process]:
        """What still runs of it, by its mark or as a child that was seen."""
        found = list(filter(alive, self._seen))
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and alive(process):
                    found.append(process)
        return found

    def expect_nothing_left(self) -> None:
        deadline = time.monotonic() + 15
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not self.left(), self.text
        for port in {int(found) for found in re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", self.text)}:
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is open"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    started: list[Trial] = []

    def begin(*arguments: str) -> Trial:
        started.append(Trial(tmp_path, *arguments))
        return started[-1]

    yield begin
    for trial in started:
        trial.process.kill()
        for process in trial.left():
            with suppress(psutil.Error):
                process.kill()
        trial.ended()


@pytest.mark.slow
@pytest.mark.ci
def test_one_command_goes_from_nothing_to_a_report(start: Callable[..., Trial], cdtl: Cdtl, tmp_path: Path) -> None:
    trial = start()
    url = trial.until(r"page, updated after each round: (http://127\.0\.0\.1:\d+/)")[1]
    with urllib.request.urlopen(url, timeout=30) as answer:
        live = answer.read().decode()
    assert "data-live" in live
    assert "Running." in live
    assert trial.ended() == 0, trial.text
    trial.expect_nothing_left()
    for what in ("every site is admitted at once", "the run is approved at every site"):
        assert f"AUTOMATIC in this trial: {what}. In a real federation" in trial.text
    assert "What may leave a site, and nothing else:" in trial.text
    assert [f"round {n} of 2 in" in trial.text for n in (1, 2, 3)] == [True, True, False]
    assert "Completed: every site has its model." in trial.text
    page = trial.out / "report.html"
    assert f"Report: {page}" in trial.text
    assert "Completed: every site has its model." in page.read_text()
    assert "data-live" not in page.read_text()
    for told in ([trial.out, "--site", "north"], [trial.out / "sites" / "south"], [trial.out / "coordinator"]):
        assert cdtl("report", *told).code == 0
    expect_models_of_a_simulation(trial.out, tmp_path)


def expect_models_of_a_simulation(out: Path, tmp_path: Path) -> None:
    """The settings that the trial keeps give the same models in one process, byte for byte."""
    simulate(load_config(out / "config.toml"), tmp_path / "simulated")
    for name in ("north", "south"):
        for file in ("model.safetensors", "scores.csv"):
            model = Path("sites") / name / "models" / "tiny-cdtl" / file
            assert (out / model).read_bytes() == (tmp_path / "simulated" / model).read_bytes()


def _interrupt(trial: Trial) -> None:
    trial.process.send_signal(signal.SIGINT)


def _interrupt_twice(trial: Trial) -> None:
    _interrupt(trial)
    trial.until("Ending all programs")
    _interrupt(trial)


ENDS: dict[str, tuple[Callable[[Trial], Any], set[int], str]] = {
    "Ctrl-C": (_interrupt, {1, 130}, "Ending all programs"),
    "Ctrl-C twice": (_interrupt_twice, {1, 130}, "Ending all programs"),
    "terminated": (lambda trial: trial.process.terminate(), {143}, "Ending all programs"),
    "killed": (lambda trial: trial.process.kill(), {-9}, ""),
    "a site killed": (lambda trial: trial.program("site start").kill(), {7}, "ended before the run"),
    "the coordinator killed": (
        lambda trial: trial.program("server start").kill(), {7}, "program of coordinator ended before the run",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.ci] * (how == "a site killed")) for how in ENDS])
def test_however_it_ends_no_program_and_no_port_is_left(start: Callable[..., Trial], how: str) -> None:
    act, codes, says = ENDS[how]
    trial = start("--set", "federation.rounds=200")
    trial.until("round 1 of 200 in")
    act(trial)
    assert trial.ended() in codes, trial.text
    assert says in trial.text
    trial.expect_nothing_left()


@pytest.mark.slow
def test_a_run_that_a_site_refuses_ends_with_its_sentence(start: Callable[..., Trial]) -> None:
    trial = start("--set", 'sites.north.lock={ "train.steps" = 99 }')
    assert trial.ended() == 8, trial.text
    assert "Error: this site fixes train.steps = 99 and the run has 2" in trial.text
    trial.expect_nothing_left()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Class folders with labels in Spanish; the patient is in a file's name."""
    rng = np.random.default_rng(0)
    for label in ("Benigno", "Maligno"):
        (tmp_path / "imagenes" / label).mkdir(parents=True)
        for patient in range(12):
            image = Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8))
            image.save(tmp_path / "imagenes" / label / f"{label[0]}{patient:03}_1.png")
    return tmp_path / "imagenes"


PATIENT = ("--patient-pattern", r"^(\w\d+)")


@pytest.mark.slow
def test_a_folder_of_images_takes_part(start: Callable[..., Trial], images: Path) -> None:
    folders = [word for name in ("madrid", "lima") for word in ("--site", f"{name}={images}")]
    mapped = ("--map", "Benigno=benign", "--map", "Maligno=malignant")
    trial = start(*folders, "--modality", "ultrasound", "--modality", "lima=mammography", *mapped, *PATIENT)
    assert trial.ended() == 0, trial.text
    assert "madrid: ultrasound, about 20 patients (own images)" in trial.text
    assert "lima: mammography" in trial.text
    trial.expect_nothing_left()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--site", "imagenes"), 3, "--site imagenes is not NAME=FOLDER"),
        (("--site", "madrid=imagenes"), 3, "the modality of madrid is missing: add --modality madrid=MODALITY, one of"),
        (("--site", "madrid=imagenes", "--modality", "sonar"), 3, "modality 'sonar' is unknown"),
        (("--site", "madrid=imagenes", "--modality", "lima=mri"), 3, "--modality names lima, which no --site does"),
        (("--site", "a=x", "--site", "a=y", "--modality", "mri"), 3, "--site names a twice"),
        (("--site", "a=x", "--sites", "2"), 2, "give --sites or --site, not both"),
        (("--site", "madrid=nada", "--modality", "mri"), 4, "nada does not exist"),
        (("--site", "madrid=imagenes", "--modality", "mri", *PATIENT), 3, "--map 'Benigno=benign'"),
        (("no.toml",), 3, "the configuration no.toml does not exist"),
        (("--out", "imagenes"), 6, "imagenes exists and is not empty: choose another --out"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_starts(
    cdtl: Cdtl, images: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = cdtl("try", *arguments)
    assert (done.code, says in done.err) == (code, True), done.err
    assert not list(tmp_path.glob("runs/*")), "nothing is left of it"


def test_how_each_folder_was_read_is_said(cdtl: Cdtl, images: Path) -> None:
    done = cdtl("try", "--site", f"madrid={images}", "--modality", "mri", *PATIENT)  # ends at the labels
    assert f"madrid: The images were read as {images} by the pattern" in " ".join(done.out.split())


def test_more_synthetic_sites_are_other_patients(cdtl: Cdtl) -> None:
    from cdtl_core.cli.try_sites import repeated

    sites = repeated(load_config("try"), 5).sites
    assert [site.site for site in sites] == ["north", "east", "south", "north-2", "east-2"]
    assert len({site.data.phantom.seed for site in sites if site.data.phantom}) == 5
