"""A small PACS, settings for it, what a pull leaves behind, and the table of `make pacs`."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.system.processes import free_port
from tests.conftest import Done
from tests.deploy.loopback import Certificates
from tests.pacs.peers import SmallPacs
from tests.pacs.studies import known, study

STUDIES = 6


class Figures:
    """Lines of the table that is printed at the end."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def add(self, what: str, measure: str, value: str) -> None:
        self.lines.append((what, measure, value))


_FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = Figures()


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    return request.config.stash[_FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_FIGURES, Figures()).lines
    if found:
        terminalreporter.section("PACS")
        for line in (("what", "measure", "value"), ("---", "---", "---"), *found):
            terminalreporter.write_line("| " + " | ".join(line) + " |")


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


def serve(protocol: str, pacs: SmallPacs, folder: Path, certificates: Certificates | None = None) -> Iterator[Path]:
    """Serve a small PACS; yield its pacs.toml.

    Args:
        protocol: Of the pull.
        pacs: The PACS.
        folder: For the file.
        certificates: For TLS.
    """
    receive, tls = free_port(), ""
    if certificates:
        certificates.key.chmod(0o600)
        tls = f'ca_file = "{certificates.ca}"\ncertificate = "{certificates.certificate}"\n'
        tls += f'certificate_key = "{certificates.key}"\n'
    with pacs.web(certificates) as url, pacs.dimse(receive_port=receive, certificates=certificates) as port:
        path = folder / "pacs.toml"
        dimse = f'host = "127.0.0.1"\nport = {port}\nae_title = "PACS"\nreceive_port = {receive}\n'
        path.write_text(
            f'protocol = "{protocol}"\ndownloads = 2\npatience_s = 5\ntimeout_s = 5\n[dicomweb]\nurl = "{url}"\n{tls}'
            f"[dimse]\ntls = {str(bool(tls)).lower()}\n{tls}{dimse}",
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
def cdtl(cdtl: Callable[..., Done]) -> Cdtl:
    """Run a command; return its code and all that it prints."""

    def run(*words: object) -> tuple[int, str]:
        done = cdtl(*words)
        return done.code, done.out + done.err

    return run
