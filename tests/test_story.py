"""The two desks of docs/coordinator.md and docs/hospital.md, played on this machine with the commands of the pages."""

import csv
import os
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.deploy.runs import ENDED, load_run_state
from cdtl_core.deploy.status import site_status
from cdtl_core.system.foreign import read_json
from cdtl_core.system.processes import free_port
from tests.test_docs import HOSPITAL, OFFICE, POST, ROOT, STORY

STUDY = """
name = "study"
method = "fedbn"
[image]
size = 32
[model]
backbone = "test_efficientnet"
weights = "random"
[train]
steps = 1
batch_size = 4
[federation]
rounds = 1
join_timeout_s = 300.0
round_timeout_s = 200.0
"""


class Story:
    """The two desks on this machine: each has a folder, what it runs is found again by a mark and ended."""

    def __init__(self, folder: Path) -> None:
        self.port, self._mark = free_port(), secrets.token_hex(8)
        self.desks = {OFFICE: folder / "office", HOSPITAL: folder / "hospital"}
        for desk in self.desks.values():
            desk.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        (programs / "cdtl").write_text(f'#!/bin/sh\nexec {sys.executable} -m cdtl_core.cli.main "$@"\n')
        (programs / "cdtl").chmod(0o755)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "PYTHONPATH": str(ROOT), "CDTL_TEST_DOCS": self._mark, "NO_PROXY": "*"}
        self._env = {**os.environ, **own}
        self._background: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def tell(self, page: str, command: str, expected: str) -> None:
        """One step."""
        if page != POST:
            kind, _, condition = expected.partition("in the background until: ")
            self._serve(page, command, condition) if condition else self._run(page, command, kind)
        elif command == "the run has ended":
            self._ended(expected)
        else:
            office, hospital = self.desks[OFFICE], self.desks[HOSPITAL]
            sender, receiver = (hospital, office) if expected == "enrolment.json" else (office, hospital)
            shutil.copyfile(sender / command, receiver / expected)

    def _here(self, command: str) -> str:
        """The command for this machine: another port, loopback only; one site alone has nothing to blend with."""
        command = command.replace("study-cdtl", "study-fedbn")
        command = command.replace("--port 8443", f"--port {self.port} --host 127.0.0.1")
        return command.replace("federation.example.org:8443", f"localhost:{self.port}").replace(
            "federation.example.org", "localhost"
        )

    def _run(self, page: str, command: str, expected: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", self._here(command)],
            cwd=self.desks[page], env=self._env, input="y\n", capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.log()}"
        assert expected in done.stdout, f"{command}: {done.stdout}"

    def _serve(self, page: str, command: str, condition: str) -> None:
        out = self.desks[page] / f"{len(self._background)}.out"
        answer = self.desks[page] / "yes"
        answer.write_text("y\n")
        with open(out, "wb") as file, open(answer, "rb") as yes:
            process = subprocess.Popen(
                shlex.split(self._here(command)),
                cwd=self.desks[page], env=self._env, stdin=yes, stdout=file, stderr=file,
            )  # fmt: skip
        self._background[f"{len(self._background)} {command}"] = (process, out)
        self._until(self._conditions()[condition], condition, process)

    def _conditions(self) -> dict[str, Callable[[], bool]]:
        run, home = self.desks[OFFICE] / "coordinator" / "runs" / "study", self.desks[HOSPITAL] / "north"
        return {
            "the coordinator answers": self._answers,
            "the site is connected": lambda: site_status(home)["connected"],
            "approval is waited for": lambda: (
                read_json(run / "progress.json").get("waiting") == {"north": "it has not approved this run"}
            ),
        }

    def _answers(self) -> bool:
        """Whether the gateway has seen its SuperLink, which is some time after the port is open on a busy machine."""
        context = ssl.create_default_context(cafile=self.desks[OFFICE] / "coordinator" / "tls" / "ca.crt")
        with suppress(OSError), urllib.request.urlopen(f"https://localhost:{self.port}/health", context=context):
            return True
        return False

    def _until(self, holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 400
        while not holds():
            assert process.poll() is None, f"it ended before {what}: {self.log()}"
            assert time.monotonic() < deadline, f"waited for {what}: {self.log()}"
            time.sleep(0.1)

    def _ended(self, status: str) -> None:
        """The command that shows the run ends with it."""
        process, out = list(self._background.values())[-1]
        code = process.wait(timeout=400)
        state = load_run_state(self.desks[OFFICE] / "coordinator" / "runs" / "study")
        assert state is not None
        assert state.status in ENDED
        assert (state.status, code) == (status, 0 if status == "completed" else 7), out.read_text() + self.log()

    def log(self) -> str:
        return "\n".join(f"== {name}\n{out.read_text()[-3000:]}" for name, (_, out) in self._background.items())

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("CDTL_TEST_DOCS") == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        for process, _ in self._background.values():
            process.kill()
            process.wait()
        for left in self.processes():
            left.kill()


def write_images(folder: Path, source: Path) -> None:
    """Class folders as a hospital has them: the patient is in a file's name."""
    write_phantoms(source, modality="ultrasound", num_patients=20, seed=1, size=48)
    patients: dict[str, list[str]] = {}
    with open(source / "manifest.csv") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["label"], reverse=True)
    for row in rows:
        views = patients.setdefault(row["patient_id"], [])
        views.append(row["file"])
        target = folder / row["label"] / f"P{len(patients):03d}_{len(views)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["file"], target)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    told = Story(tmp_path)
    (told.desks[OFFICE] / "study.toml").write_text(STUDY)
    write_images(told.desks[HOSPITAL] / "images", tmp_path / "phantoms")
    yield told
    told.end()


@pytest.mark.slow
def test_the_two_pages_are_one_story_that_works(story: Story) -> None:
    for page, command, expected in STORY:
        story.tell(page, command, expected)
    deadline = time.monotonic() + 15
    while story.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert story.processes() == []
    assert not story._answers()
