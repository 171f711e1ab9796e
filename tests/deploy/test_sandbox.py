"""Attacks on the node's sandbox from inside: keys, files, network and processes."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import SiteConfig
from cdtl_core.deploy.link import COPIED, NODE_FOLDERS, Link
from cdtl_core.deploy.sandbox import Place, enclosed, readable_folders, sandbox_fault
from cdtl_core.deploy.seccomp import program
from cdtl_core.errors import ConfigError
from tests.tables import Tries

HOSTILE = Path(__file__).with_name("hostile_code.py")
CHECKOUT = Path(__file__).parents[2]
SECRETS = ("site.key", "site.crt", "coordinator.json", "approvals/run.json", "logs/egress.jsonl")
needs_sandbox = pytest.mark.skipif(bool(sandbox_fault()), reason=f"no sandbox here: {sandbox_fault()}")


@pytest.fixture
def place() -> Iterator[Place]:
    """A site's folder as the filter leaves it, with its images beside it, where every account can come."""
    with tempfile.TemporaryDirectory(prefix="cdtl-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield _made(folder)


def _made(folder: Path) -> Place:
    home, link, scratch, images = (folder / name for name in ("north", "link", "node/scratch", "images"))
    for path in (*(home / name for name in NODE_FOLDERS), home / "approvals", home / "logs", link, scratch, images):
        path.mkdir(parents=True)
    for name in (*SECRETS, *COPIED):
        (home / name).write_text(f"the content of {name}")
    (images / "P001.png").write_bytes(b"pixels")
    (folder / "client.key").write_text("a key of the filter")
    Link(link).copy_from(home)
    return Place(home, link, scratch, (images,))


@pytest.fixture
def outside(place: Place) -> Iterator[dict[str, Any]]:
    """The machine around it: listeners on every kind of socket, and processes whose memory is worth reading."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((host, 0))) for host in ("127.0.0.1", "0.0.0.0")]
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0cdtl-test-{os.getpid()}")
        abstract.listen()
        named = stack.enter_context(socket.socket(socket.AF_UNIX))
        named.bind(str(place.home.parent / "other.sock"))
        named.listen()
        home = place.home
        yield {
            "mounts": str(Path("/proc/self/ns/mnt").readlink()),
            "home": str(home),
            "secrets": [*(str(home / name) for name in SECRETS), str(home.parent / "client.key"), "/etc/shadow"],
            "files": [
                *(str(home / name) for name in (*COPIED, *SECRETS)),
                *(str(place.link / name) for name in COPIED),
                str(place.images[0] / "P001.png"),
                sys.executable,
                str(HOSTILE),
            ],
            "folders": [*map(str, (home, place.link, place.images[0], home / "approvals")), "/usr", "/etc", sys.prefix],
            "hidden": [
                str(home / "approvals"),
                str(home / "logs"),
                str(Path(__file__).parents[2] / "docs"),
                "/home",
                "/var",
                "/mnt",
            ],
            "listeners": [("127.0.0.1", one.getsockname()[1]) for one in listeners] + _own_addresses(listeners[1]),
            "sockets": [abstract.getsockname().decode(), str(place.home.parent / "other.sock"), "/run/systemd/private"],
            "pids": [os.getpid(), os.getppid()],
        }


def _own_addresses(listener: socket.socket) -> list[tuple[str, int]]:
    """Return an address other than loopback of a listener on all addresses, e.g. of this machine's gateway."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [(probe.getsockname()[0], listener.getsockname()[1])]


def attacked(place: Place, facts: dict[str, Any], before: tuple[str, ...] = (), python: str = sys.executable) -> Any:
    command = [python, "-I", str(HOSTILE), json.dumps(facts)]
    seen = Place(place.home, place.link, place.scratch, (*place.images, HOSTILE))
    command = [*before, *enclosed(seen, command, {"PATH": os.environ["PATH"]})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_sandbox
@pytest.mark.attack("Code cannot reach keys, network", "hostile code in the sandbox")
def test_code_in_the_sandbox_reaches_nothing_but_what_it_was_given(
    place: Place, outside: dict[str, Any], tries: Tries
) -> None:
    found = attacked(place, outside)
    tries.add(len(found))
    assert len(found) > 60
    assert {name: got for name, got in found.items() if got} == {}


@needs_sandbox
def test_the_same_code_outside_does_reach_it(place: Place, outside: dict[str, Any]) -> None:
    """Else the attack would prove nothing."""
    command = [sys.executable, "-I", str(HOSTILE), json.dumps(outside)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    names = [f"read {place.home / 'site.key'}", f"list {place.home / 'approvals'}", f"read /proc/{os.getpid()}/environ"]
    names += [f"connect to {host}:{port}" for host, port in outside["listeners"]]
    names += [f"connect to {path!r}" for path in outside["sockets"][:2]]
    assert {name: bool(found[name]) for name in names} == dict.fromkeys(names, True)
    assert not any(name.startswith(("write", "open", "mount", "unmount")) for name in found)


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="this account has no rights to drop")
@pytest.mark.attack("Code cannot reach keys, network", "hostile code, unprivileged account")
def test_an_account_without_rights_gets_the_same_sandbox(
    place: Place, outside: dict[str, Any], tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, python = 65534, "/usr/bin/python3"
    drop = ("setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups")
    if shutil.which("setpriv") is None or not Path(python).exists():
        pytest.skip("needs setpriv and a Python that every account may run")
    for path in [place.home.parent, *place.home.parent.rglob("*")]:
        shutil.chown(path, account, account)
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, "/usr")  # the system's Python, since ours may lie where others cannot read
    found = attacked(place, outside, drop, python)
    tries.add(len(found))
    assert {name: got for name, got in found.items() if got} == {}


@needs_sandbox
def test_the_code_reads_its_images_and_settings_and_writes_its_folders(place: Place) -> None:
    code = f"""
import os
home = {str(place.home)!r}
for name in {NODE_FOLDERS!r}:
    open(os.path.join(home, name, "kept"), "w").write("kept")
for name in {COPIED!r}:
    assert open(os.path.join(home, name)).read() == f"the content of {{name}}"
assert open({str(place.images[0] / "P001.png")!r}, "rb").read() == b"pixels"
assert not [name for name in os.environ if name not in ("PATH", "PWD", "LC_CTYPE")], os.environ
open("/tmp/written-in-the-sandbox", "w").write("x")
"""
    command = enclosed(place, [sys.executable, "-I", "-c", code], {"PATH": os.defpath})
    subprocess.run(command, check=True, timeout=60)
    assert all((place.home / name / "kept").read_text() == "kept" for name in NODE_FOLDERS)
    assert not Path("/tmp/written-in-the-sandbox").exists()


def test_only_folders_with_images_are_shown_where_the_manifest_lies_with_the_keys(tmp_path: Path) -> None:
    home, images = tmp_path / "north", tmp_path / "images"
    home.mkdir()
    (home / "site.key").touch()
    manifest = home / "manifest.csv"

    def shown(*files: str) -> set[Path]:
        manifest.write_text("file,label,patient_id\n" + "".join(f"{file},benign,P1\n" for file in files))
        data = {"root": str(home), "manifest": "manifest.csv"}
        return set(readable_folders(home, SiteConfig.model_validate({**BASE, "data": data})))

    absolute = [str(images / label / "1.png") for label in ("benign", "malignant")]
    assert shown(*absolute) == {manifest, images / "benign", images / "malignant"}
    assert shown("scans/a/1.png") == {manifest, home / "scans"}
    with pytest.raises(ConfigError, match="directly in the site's folder"):
        shown("1.png")


def test_a_manifest_in_a_folder_of_its_own_shows_that_folder_and_thousands_of_folders_become_few(
    tmp_path: Path,
) -> None:
    home = tmp_path / "north"
    lines = [f"{tmp_path}/pacs/{number % 3}/{number}/1.dcm,benign,P1" for number in range(1000)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.csv").write_text("\n".join(["file,label,patient_id", "x/1.png,benign,P1", *lines]))
    data = {"root": str(tmp_path / "data"), "manifest": "list.csv"}
    shown = set(readable_folders(home, SiteConfig.model_validate({**BASE, "data": data})))
    assert shown == {tmp_path / "data", *(tmp_path / "pacs" / str(number) for number in range(3))}


BASE = {"site": "north", "modality": "ultrasound"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_the_filter_of_system_calls_is_a_program_whose_jumps_stay_inside(machine: str) -> None:
    code = program(machine)
    steps = len(code) // 8
    assert len(code) % 8 == 0
    for at in range(steps):
        if code[at * 8] & 0x07 == 0x05:
            assert at + 1 + max(code[at * 8 + 2], code[at * 8 + 3]) < steps
    assert (steps == 1) is (machine == "riscv64")
    assert platform.machine() in ("x86_64", "aarch64") or program() == program("riscv64")
