"""A small PACS, settings for it, and what a pull leaves behind."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.cli.main import main
from cdtl_core.system.processes import free_port
from tests.pacs.peers import SmallPacs
from tests.pacs.studies import known, study

STUDIES = 6


@pytest.fixture
def pacs() -> SmallPacs:
    return SmallPacs([one for number in range(STUDIES) for one in study(number, size=48)])


@pytest.fixture(params=["dicomweb", "c-get", "c-move"])
def settings(request: pytest.FixtureRequest, pacs: SmallPacs, tmp_path: Path) -> Iterator[Path]:
    """pacs.toml for the small PACS, once for each protocol."""
    yield from serve(request.param, pacs, tmp_path)


@pytest.fixture
def web(pacs: SmallPacs, tmp_path: Path) -> Iterator[Path]:
    """pacs.toml for the small PACS by DICOMweb."""
    yield from serve("dicomweb", pacs, tmp_path)


def serve(protocol: str, pacs: SmallPacs, folder: Path) -> Iterator[Path]:
    receive = free_port()
    with pacs.web() as url, pacs.dimse(receive_port=receive) as port:
        path = folder / "pacs.toml"
        path.write_text(
            f'protocol = "{protocol}"\ndownloads = 2\npatience_s = 5\ntimeout_s = 5\n[dicomweb]\nurl = "{url}"\n'
            f'[dimse]\nhost = "127.0.0.1"\nport = {port}\nae_title = "PACS"\nreceive_port = {receive}\n',
            encoding="utf-8",
        )
        yield path


def table(folder: Path, numbers: Any) -> Path:
    """Write a table of accession numbers with labels."""
    path = folder / "studies.csv"
    rows = [f"{known(number).accession},{known(number).label}\n" for number in numbers]
    path.write_text("accession_number,label\n" + "".join(rows), encoding="utf-8")
    return path


def left(out: Path) -> dict[str, str]:
    """Return the hash of each file that counts: images and manifest."""
    files = [*(out / "images").rglob("*.dcm"), out / "manifest.csv"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


Cdtl = Callable[..., tuple[int, str]]


@pytest.fixture
def cdtl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cdtl:
    """Run a command in this process; return its code and all that it prints."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["cdtl", *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        told = capfd.readouterr()
        return code, told.out + told.err

    return run
