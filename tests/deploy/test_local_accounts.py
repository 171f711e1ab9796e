"""Another account of the coordinator's machine, and the code of a run, reach no port and no key."""

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cdtl_core.config import FederationConfig, SimulationConfig
from cdtl_core.deploy.authority import adopt_authority_key, authority_key, make_coordinator, renew_server
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.deploy.systemd import unit_text
from cdtl_core.system.isolation import isolation_fault
from cdtl_core.system.processes import free_port
from tests.conftest import Cdtl
from tests.deploy.deployment import MODEL, Deployment
from tests.tables import Tries

Tiny = Callable[..., SimulationConfig]
STRANGER = 65534

CONNECT = """
import errno, os, socket, sys
"127.0.0.1".encode("idna")  # imported while Python's own files can still be read
os.setgid({stranger}), os.setuid({stranger})
for port in map(int, sys.argv[1:]):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        print(port, "open")
    except OSError as error:
        print(port, errno.errorcode.get(error.errno, error.errno))
"""
"""Runs as another account: what each port on the loopback address says."""

isolated = pytest.mark.skipif(bool(isolation_fault()), reason=f"no isolation here: {isolation_fault()}")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a second account")


@pytest.fixture
def deployment(tiny: Tiny, tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, [], tiny(model=MODEL).of_method("cdtl"))
    made.start("coordinator")
    made.until(lambda: "sites reach" in made.story(), 60.0, "the coordinator")
    yield made
    made.end()


def listening(pid: int) -> dict[int, str]:
    """Ports that the processes of a service listen on in their own network, as its tables in /proc say."""
    ports = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A":
            address, port = local.split(":")
            ports[int(port, 16)] = address
    return ports


@isolated
@as_root
@pytest.mark.attack("A local account reaches no port of the coordinator", "connects to each loopback port")
def test_another_account_reaches_the_public_port_only(deployment: Deployment, tries: Tries) -> None:
    inside = listening(deployment.program("coordinator", "flower-superlink"))
    assert len(inside) >= 2, "the SuperLink and the gateway's own look"
    asked = sorted({*inside, deployment.port})
    command = [sys.executable, "-c", CONNECT.format(stranger=STRANGER), *map(str, asked)]
    said = dict(
        line.split() for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    )
    tries.add(len(asked))
    assert said.pop(str(deployment.port)) == "open"
    assert set(said.values()) == {"ECONNREFUSED"}
    assert "closed to other accounts" in deployment.story()


REACH = """
import os as _os, pathlib as _pathlib, subprocess as _subprocess
_key, _proof, _said = {key!r}, _pathlib.Path({proof!r}), []
def _attempt(what, path):
    try:
        _said.append(f"{{what}}: {{len(_pathlib.Path(path).read_bytes())}} bytes READ")
    except OSError as error:
        _said.append(f"{{what}}: {{error.strerror}}")
_attempt("open", _key)
for _pid in (1, _os.getppid(), {pid}, {service}):
    _attempt(f"through process {{_pid}}", f"/proc/{{_pid}}/root{{_key}}")
for _way in ("umount {{0}}", "umount -l {{0}}", "unshare -Urm umount {{0}}", "unshare -Urm umount -l {{0}}"):
    _subprocess.run(["sh", "-c", _way.format(_os.path.dirname(_key))], capture_output=True)
    _attempt(_way, _key)
_proof.with_suffix(".draft").write_text("\\n".join(_said))
_proof.with_suffix(".draft").replace(_proof)
"""
"""Appended to the code of a run: every way to the authority's key that we know."""


@isolated
@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.attack("The code of a run cannot read the authority's key", "opens it, unmounts, other processes")
def test_a_running_serverapp_cannot_read_the_key_of_the_authority(tiny: Tiny, tmp_path: Path, tries: Tries) -> None:
    config = tiny(model=MODEL)
    deployment = Deployment(tmp_path, list(config.sites)[:1], config.of_method("cdtl"))
    try:
        key, proof = authority_key(deployment.coordinator), tmp_path / "proof"
        assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY")
        deployment.start("coordinator")
        run = deployment.request(config.of_method("cdtl").model_copy(update={"federation": FederationConfig(rounds=2)}))
        service = deployment.pid("coordinator")
        attempts = REACH.format(key=str(key), proof=str(proof), pid=os.getpid(), service=service)
        deployment.alter(run, "server/app.py", attempts)
        deployment.play(run)
        deployment.until(proof.exists, 120.0, "the ServerApp")
        said = proof.read_text().splitlines()
        tries.add(len(said))
        assert len(said) == 9
        assert not [line for line in said if "READ" in line], said
        assert key.exists()
        deployment.stop()
    finally:
        deployment.end()


def test_init_keeps_the_key_apart_or_where_it_is_told_and_renew_finds_it(cdtl: Cdtl, tmp_path: Path) -> None:
    assert cdtl("server", "init", "one", "--name", "localhost").code == 0
    key = tmp_path / "one" / "authority" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    before = (tmp_path / "one" / "tls" / "server.crt").read_bytes()
    assert cdtl("server", "renew", "one").code == 0
    assert (tmp_path / "one" / "tls" / "server.crt").read_bytes() != before
    away = tmp_path / "medium" / "ca.key"
    assert cdtl("server", "init", "two", "--name", "localhost", "--authority-key", away).code == 0
    assert not list((tmp_path / "two").rglob("ca.key"))
    missing = cdtl("server", "renew", "two")
    assert missing.code == 3
    assert "--authority-key" in missing.err
    assert cdtl("server", "renew", "two", "--authority-key", away).code == 0
    assert "exists" in cdtl("server", "init", "three", "--name", "localhost", "--authority-key", away).err


def test_the_key_of_an_earlier_version_is_moved_apart_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    make_coordinator(folder, ServerConfig(names=("localhost",)))
    key = (folder / "authority" / "ca.key").rename(folder / "tls" / "ca.key").read_bytes()
    (folder / "authority").rmdir()
    assert authority_key(folder) == folder / "tls" / "ca.key"
    renew_server(folder, ServerConfig(names=("localhost",)))
    adopt_authority_key(folder)
    assert not (folder / "tls" / "ca.key").exists()
    assert authority_key(folder).read_bytes() == key
    renew_server(folder, ServerConfig(names=("localhost",)))
    unit = unit_text("server", folder, "cdtl")
    assert f"\nInaccessiblePaths=-{folder}/authority\n" in unit


HANDED_OVER = """
import os, socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "cdtl_core.cli.main", "server", "start", sys.argv[1]])
"""
"""As systemd does with a socket unit."""


@pytest.mark.slow
def test_a_port_that_systemd_opened_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    make_coordinator(folder, ServerConfig(names=("localhost",), port=1))  # not to be opened by us
    command = [sys.executable, "-c", HANDED_OVER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout
        port = int(service.stdout.readline())
        try:
            context = ssl.create_default_context(cafile=folder / "tls" / "ca.crt")
            with httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False) as client:
                assert client.get("/docs", timeout=60).status_code == 404
        finally:
            service.terminate()


@as_root
def test_root_does_not_start_what_belongs_to_another_account(cdtl: Cdtl, tmp_path: Path) -> None:
    make_coordinator(tmp_path / "coordinator", ServerConfig(names=("localhost",)))
    os.chown(tmp_path / "coordinator", STRANGER, STRANGER)
    refused = cdtl("server", "start", "coordinator")
    assert refused.code == 3
    assert f"sudo -u '#{STRANGER}' cdtl server start" in refused.err


@pytest.mark.slow
@pytest.mark.ci
def test_where_the_loopback_ports_stay_open_the_log_the_status_and_doctor_say_so(tmp_path: Path) -> None:
    """No namespace is available: their limit is zero, in a separate namespace."""
    commands = """
        echo 0 > /proc/sys/user/max_user_namespaces || exit 77
        {python} -m cdtl_core.cli.main server init one --name localhost --port {port} --host 127.0.0.1
        {python} -m cdtl_core.cli.main doctor one
        {python} -m cdtl_core.cli.main server start one > log 2>&1 &
        until grep -q "sites reach" log; do sleep 0.1; kill -0 $! || exit 1; done
        {python} -m cdtl_core.cli.main server status one
        kill $!; wait
    """
    script = commands.format(python=sys.executable, port=free_port())
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(inside, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        pytest.skip("the limit on namespaces cannot be set here")
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log").read_text()
    assert done.stdout.count("OPEN: every account of this machine can submit code") == 2, done.stdout
    assert "OPEN: every account" in (tmp_path / "log").read_text()
