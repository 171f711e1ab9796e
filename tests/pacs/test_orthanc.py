"""500 studies of a real Orthanc: pulled through kills and cut lines, and how fast. `make pacs` prints the table."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from dicomweb_client import DICOMwebClient

from cdtl_core.config import SimulationConfig
from tests.conftest import Played
from tests.faults.link import Link
from tests.pacs.conftest import Cdtl, Figures, left, table
from tests.pacs.orthanc import AS_STORED, PROGRAM, Orthanc
from tests.pacs.studies import image, known, study

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM.exists(), reason="Orthanc is not installed: make pacs")]
STUDIES, LARGE = 500, range(1000, 1012)
PROTOCOLS = ("dicomweb", "c-get", "c-move")
SIDE, LARGE_SIDE = 96, 1024  # pixels: 4 images of 9 kB, or 8 of 2 MB, in each study


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
        done = ended(pulling(settings, out, listed))
    found = left(out)
    differing = sum(found.get(name) != value for name, value in expected.items()) + len(set(found) - set(expected))
    figures.add(f"{protocol}: 500 studies, line cut, Orthanc killed, cdtl killed", "files that differ", str(differing))
    assert found == expected
    assert 280 <= int(str(done["here"])) < STUDIES


def test_orthanc_takes_a_report_and_pictures(
    orthanc: Orthanc, played: Played, tiny: Callable[..., SimulationConfig], tmp_path: Path, cdtl: Cdtl
) -> None:
    sites = [
        {"site": name, "modality": "ultrasound", "data": {"phantom": {"patients": 16}}} for name in ("alba", "como")
    ]
    model = played(tiny(methods=("fedbn",), sites=sites)).out / "sites" / "alba"
    orthanc.upload(study(900, size=SIDE))
    settings = orthanc.settings(tmp_path / "pacs.toml", "c-get")
    settings.write_text("predict = true\nstore = true\n" + settings.read_text(encoding="utf-8"), encoding="utf-8")
    code, told = cdtl("predict", model, "--study", known(900).uid, "--pacs", settings, "--store")
    assert (code, "Stored: 5 objects" in told) == (0, True), told
    answer = httpx.get(f"{orthanc.web}/studies/{known(900).uid}/series", trust_env=False).json()
    assert sorted(one["00080060"]["Value"][0] for one in answer) == ["OT", "OT", "OT", "OT", "SR", "US", "US"]


def plain(web: str, numbers: range, folder: Path) -> float:
    """Download studies by one connection that is kept, into files as they come; return the seconds."""
    folder.mkdir()
    with httpx.Client(trust_env=False, timeout=60) as client:
        began = time.monotonic()
        for number in numbers:
            address = f"{web}/studies/{known(number).uid}"
            with client.stream("GET", address, headers={"Accept": AS_STORED}) as answer:
                answer.raise_for_status()
                with open(folder / str(number), "wb") as file:
                    for piece in answer.iter_raw():
                        file.write(piece)
        return time.monotonic() - began


def by_library(web: str, numbers: range, folder: Path) -> float:
    """Download studies by dicomweb-client, and save each image as pydicom does; return the seconds."""
    folder.mkdir()
    client = DICOMwebClient(web)
    began = time.monotonic()
    for number in numbers:
        for one in client.iter_study(known(number).uid, media_types=(("application/dicom", "*"),)):
            one.save_as(folder / f"{one.SOPInstanceUID}.dcm")
    return time.monotonic() - began


def compared(figures: Figures, what: str, orthanc: Orthanc, numbers: range, folder: Path, **setting: int) -> None:
    """Alternate the arms, three times each, and add the medians of their ratios to the table.

    Args:
        figures: The table.
        what: Name of the arm.
        orthanc: The PACS.
        numbers: The studies.
        folder: For all files.
        setting: ``port`` of a slower line, ``downloads``.
    """
    port = setting.pop("port", orthanc.web_port)
    web = orthanc.web.replace(str(orthanc.web_port), str(port))
    settings, listed = orthanc.settings(folder / "pacs.toml", "dicomweb", web_port=port), table(folder, numbers)
    extra = "".join(f"{name} = {value}\n" for name, value in setting.items())
    settings.write_text(extra + settings.read_text(encoding="utf-8"), encoding="utf-8")
    seconds: dict[str, list[float]] = {"plain": [], "library": [], "cdtl": []}
    for _ in range(3):
        seconds["plain"].append(plain(web, numbers, folder / "plain"))
        seconds["library"].append(by_library(web, numbers, folder / "library"))
        done = ended(pulling(settings, folder / "out", listed))
        assert done["fetched"] == len(numbers)
        seconds["cdtl"].append(float(str(done["seconds"])))
        for name in ("plain", "library", "out"):
            shutil.rmtree(folder / name)
    for other, named in (("plain", "of a plain download"), ("library", "of dicomweb-client and pydicom alone")):
        ratio = statistics.median(slow / own for slow, own in zip(seconds[other], seconds["cdtl"], strict=True))
        figures.add(what, f"throughput, share {named}", f"{ratio:.2f}")
    rates = [len(numbers) / statistics.median(found) for found in seconds.values()]
    figures.add(what, "studies per second: plain, library, cdtl", ", ".join(f"{rate:.1f}" for rate in rates))


@pytest.mark.alone
def test_throughput_is_reported_beside_a_plain_download(orthanc: Orthanc, tmp_path: Path, figures: Figures) -> None:
    """No promise: on one machine a plain loop only copies from memory to memory, and cdtl reads and writes each image.

    On a line of 100 Mbit/s, as a PACS often has, the line is the limit; both then have one connection.
    """
    orthanc.upload(image(number, 0, place, size=LARGE_SIDE, modality="CT") for number in LARGE for place in range(8))
    compared(figures, f"{STUDIES} studies of 37 kB, one machine", orthanc, range(STUDIES), tmp_path)
    compared(figures, f"{len(LARGE)} studies of 17 MB, one machine", orthanc, LARGE, tmp_path)
    with Link(orthanc.web_port).carrying() as line:
        line.bytes_per_s = 12.5e6
        compared(figures, "4 studies of 17 MB, 100 Mbit/s", orthanc, LARGE[:4], tmp_path, port=line.port, downloads=1)
