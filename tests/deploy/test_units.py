"""The systemd units of a site in two accounts."""

# mypy: disable-error-code=arg-type

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdtl_core.deploy.link import LINK, NODE_FOLDERS, NODE_KEY, SOCKET, Link
from cdtl_core.deploy.systemd import filter_unit, node_unit, unit_text
from tests.tables import Tries

HOME = Path("/srv/north")


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


def test_the_nodes_unit_has_no_network_and_sees_of_the_site_its_own_folders_and_the_link() -> None:
    unit = node_unit(HOME, "cdtl", "cdtl-node")
    assert values(unit, "PrivateNetwork") == ["true"]
    assert values(unit, "TemporaryFileSystem") == ["/srv/north:ro"]
    assert set(values(unit, "BindPaths")[0].split()) == {f"/srv/north/{name}" for name in (*NODE_FOLDERS, "node")}
    assert values(unit, "BindReadOnlyPaths") == ["/srv/north/link"]
    assert values(unit, "User") == ["cdtl-node"]
    assert values(unit, "CapabilityBoundingSet") == [""]
    assert "site.key" not in unit


def test_the_filters_unit_gives_the_link_to_the_nodes_group_and_nothing_else() -> None:
    unit = filter_unit(HOME, "cdtl", "cdtl-node")
    assert values(unit, "User") == ["cdtl"]
    assert values(unit, "ExecStartPre") == ["+install -d -o cdtl -g cdtl-node -m 2750 /srv/north/link"]
    assert values(unit, "UMask") == ["0077"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    units = {"cdtl-filter": filter_unit, "cdtl-node": node_unit}
    files = [tmp_path / f"{name}.service" for name in (*units, "cdtl-site")]
    for file, text in zip(files, [make(tmp_path, "root", "root") for make in units.values()], strict=False):
        file.write_text(text)
    files[-1].write_text(unit_text("site", tmp_path, "root"))
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if str(tmp_path) in line], done.stderr


FILTER, NODE = 61001, 61002


def as_account(account: int, umask: int, act: Callable[[], None]) -> bool:
    """Act in a process of another account; whether nothing was refused."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(account)
        os.setuid(account)
        os.umask(umask)
        try:
            act()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def two_accounts() -> Iterator[Path]:
    """A site's folder with the rights that the units give, its filter's files written and its socket open."""
    with tempfile.TemporaryDirectory(prefix="cdtl-test-") as name:
        home = Path(name)
        os.chown(home, FILTER, FILTER)
        home.chmod(0o711)  # the node's unit binds what lies below it
        install = ["install", "-d", "-o", str(FILTER), "-g", str(NODE), "-m", "2750", home / LINK]
        subprocess.run(install, check=True)
        subprocess.run(["install", "-d", "-o", str(NODE), "-g", str(FILTER), "-m", "2770", home / "models"], check=True)

        def write() -> None:
            (home / "site.key").write_text("the site's key")
            (home / "site.toml").write_text("the site's settings")
            Link(home / LINK, 0o640).copy_from(home)
            Link(home / LINK, 0o640).write(NODE_KEY, b"the node's key")

        assert as_account(FILTER, 0o077, write)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home / LINK / SOCKET))
            (home / LINK / SOCKET).chmod(0o666)  # as uvicorn does: the folder is what keeps others out
            listener.listen()
            yield home


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two accounts")
@pytest.mark.attack("Two accounts keep code and key apart", "the node's account reads and writes the filter's")
def test_the_nodes_account_reads_the_link_and_nothing_else_of_the_filter(two_accounts: Path, tries: Tries) -> None:
    home, link = two_accounts, two_accounts / LINK

    def node(act: Callable[[], object]) -> bool:
        tries.add()
        return as_account(NODE, 0o007, lambda: act() and None)

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(link / SOCKET))

    assert node(lambda: (link / NODE_KEY).read_bytes())
    assert node(lambda: (link / "site.toml").read_bytes())
    assert node(connect)
    assert node(lambda: (home / "models" / "model").write_text("a model"))
    assert not node(lambda: (home / "site.key").read_bytes())
    assert not node(lambda: (link / "site.toml").write_text("x"))
    assert not node(lambda: (link / "site.toml").unlink())
    assert not node(lambda: (link / "new").write_text("x"))
    assert not node(lambda: (home / "new").write_text("x"))
    assert not node(lambda: list(home.iterdir()))
    assert as_account(FILTER, 0o077, lambda: (home / "models" / "model").read_bytes() and None)
    assert not as_account(NODE + 1, 0o077, connect)
    assert not as_account(NODE + 1, 0o077, lambda: (link / NODE_KEY).read_bytes() and None)
