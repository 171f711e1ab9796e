"""500 studies of a real Orthanc: pulled through kills and cut lines, and how fast. `make pacs` prints the table."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.link import Link
from tests.pacs.conftest import Figures, left, table
from tests.pacs.orthanc import AS_STORED, PROGRAM, Orthanc
from tests.pacs.studies import image, known, study

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM.exists(), reason="Orthanc is not installed: make pacs")]
STUDIES, LARGE = 500, range(1000, 1012)
PROTOCOLS = ("dicomweb", "c-get", "c-move")
SIDE, LARGE_SIDE = 96, 2048  # pixels: 4 images of 9 kB, or of 4 MB, in each study


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    one = Orthanc(tmp_path_factory.mktemp("orthanc"))
    one.start()
    try:
        one.upload(each for number in range(STUDIES) for each in study(number, size=SIDE))
        yield one
    finally:
        one.kill()


def pulling(settings: Path, out: Path, listed: Path) -> subprocess.Popen[str]:
    words = ["data", "pull", str(out), "--pacs", str(settings), "--accessions", str(listed), "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "cdtl_core.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> dict[str, object]:
    told, complaint = process.communicate(timeout=900)
    assert process.returncode == 0, complaint[-2000:] + told[-2000:]
    return json.loads(told)  # type: ignore[no-any-return]


def arrived(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Wait until the journal has so many lines."""
    end = time.monotonic() + 300
    while not (out / "pull.jsonl").exists() or (out / "pull.jsonl").read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = orthanc.settings(folder / "pacs.toml", "dicomweb")
    done = ended(pulling(settings, folder / "out", table(folder, range(STUDIES))))
    assert (done["fetched"], done["images"]) == (STUDIES, 4 * STUDIES)
    return folder, left(folder / "out")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pull_through_kills_and_a_cut_line_leaves_what_an_undisturbed_one_does(
    protocol: str, orthanc: Orthanc, undisturbed: tuple[Path, dict[str, str]], tmp_path: Path, figures: Figures
) -> None:
    whole, expected = undisturbed
    shutil.copy(whole / "patient.key", tmp_path / "patient.key")
    listed, out = table(tmp_path, range(STUDIES)), tmp_path / "out"
    with Link(orthanc.web_port).carrying() as web, Link(orthanc.port).carrying() as dimse:
        settings = orthanc.settings(tmp_path / "pacs.toml", protocol, web_port=web.port, port=dimse.port)
        process = pulling(settings, out, listed)
        arrived(process, out, 60)
        web.cut()
        dimse.cut()
        time.sleep(1.0)
        web.repair()
        dimse.repair()
        arrived(process, out, 160)
        orthanc.kill()
        orthanc.start()
        arrived(process, out, 280)
        process.kill()
        process.communicate()
        seconds = -time.monotonic()
        done = ended(pulling(settings, out, listed))
        seconds += time.monotonic()
    found = left(out)
    differing = sum(found.get(name) != value for name, value in expected.items()) + len(set(found) - set(expected))
    figures.add(f"{protocol}: 500 studies, line cut, Orthanc killed, cdtl killed", "files that differ", str(differing))
    assert found == expected
    assert 280 <= int(str(done["here"])) < STUDIES


def plain(orthanc: Orthanc, numbers: range, folder: Path) -> float:
    """Download the same studies by one connection that is kept, into files; return the seconds."""
    folder.mkdir()
    with httpx.Client(trust_env=False, timeout=60) as client:
        began = time.monotonic()
        for number in numbers:
            address = f"{orthanc.web}/studies/{known(number).uid}"
            with client.stream("GET", address, headers={"Accept": AS_STORED}) as answer:
                answer.raise_for_status()
                with open(folder / str(number), "wb") as file:
                    for piece in answer.iter_raw():
                        file.write(piece)
        return time.monotonic() - began


@pytest.mark.alone
@pytest.mark.parametrize(("what", "numbers"), [("small", range(STUDIES)), ("large", LARGE)])
def test_throughput_beside_a_plain_download(
    what: str, numbers: range, orthanc: Orthanc, tmp_path: Path, figures: Figures
) -> None:
    """Reported, not promised: on one machine a plain loop does no more than copy from memory to memory."""
    if what == "large":
        orthanc.upload(
            image(number, 0, place, size=LARGE_SIDE // 2, modality="CT") for number in numbers for place in range(8)
        )
    settings, listed = orthanc.settings(tmp_path / "pacs.toml", "dicomweb"), table(tmp_path, numbers)
    ratios, pairs = [], []
    for turn in range(3):
        slow = plain(orthanc, numbers, tmp_path / f"plain{turn}")
        done = ended(pulling(settings, tmp_path / f"out{turn}", listed))
        own = float(str(done["seconds"]))
        assert done["fetched"] == len(numbers)
        ratios.append(slow / own)
        pairs.append(f"{len(numbers) / slow:.0f}/{len(numbers) / own:.0f}")
        shutil.rmtree(tmp_path / f"plain{turn}")
        shutil.rmtree(tmp_path / f"out{turn}")
    figures.add(f"throughput, {what} studies", "share of a plain download", f"{statistics.median(ratios):.2f}")
    figures.add(f"throughput, {what} studies", "studies per s, plain/cdtl", " ".join(pairs))
