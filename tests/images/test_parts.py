"""Parts of `make images` that need no image: configurations, real networks, faults."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdtl_core.errors import ConfigError
from cdtl_core.system.shipped import bundle_root
from tests.images import build, network, probe
from tests.images.__main__ import judged
from tests.images.containers import bundle, seccomp, size
from tests.images.contents import contents, faults
from tests.images.study import Study, steps, tiny

ROOT = bundle_root()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SEPARATE = {
    "networks": {"east": {"internal": True}, "north": {"internal": True}},
    "services": {
        "coordinator": {"networks": ["north", "east"], "sysctls": {"net.ipv4.ip_forward": "0"}},
        "north": {"networks": ["north"]},
        "east": {"networks": ["east"]},
        "alone": {},
    },
}
needs_root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")


def test_members_of_a_network_share_a_subnet_and_know_each_others_names() -> None:
    ports = network.plan(SEPARATE)
    by_network = {
        name: {port.address.rsplit(".", 1)[0] for port in ports if port.network == name} for name in ("north", "east")
    }
    assert {name: len(nets) for name, nets in by_network.items()} == {"north": 1, "east": 1}
    assert by_network["north"] != by_network["east"]
    assert len({port.address for port in ports}) == len(ports) == 4
    assert "coordinator" in network.hosts(ports, "north")
    assert "east" not in network.hosts(ports, "north")
    assert network.hosts(ports, "alone") == "127.0.0.1 localhost\n"


def test_a_network_that_leads_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="north is not internal"):
        network.plan({"networks": {"north": {}}, "services": {}})
    with pytest.raises(ValueError, match="names the network south"):
        network.plan({"networks": {}, "services": {"south": {"networks": ["south"]}}})


def in_namespace(name: str, *addresses: str) -> Any:
    command = ["ip", "netns", "exec", name, sys.executable, probe.__file__, *addresses]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout)["reached"]


@needs_root
@pytest.mark.attack("a site reaches its coordinator only", "connect to every address of the other networks")
def test_the_networks_of_the_compose_file_hold_between_real_namespaces(tries: Any) -> None:
    ports, prefix = network.plan(COMPOSE), f"cdtltest{os.getpid()}-"
    try:
        network.set_up(ports, SERVICES, prefix)
        for site in ("north", "east", "south"):
            own = {port.network for port in ports if port.service == site}
            addresses = [port.address.split("/")[0] for port in ports]
            found = in_namespace(f"{prefix}{site}", *addresses, "192.0.2.1")
            near = [port.address.split("/")[0] for port in ports if port.network in own]
            assert {found.pop(address) for address in near} == {"refused"}
            assert set(found.values()) == {"unreachable"}
            tries.add(len(found))
    finally:
        network.remove(prefix)
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert prefix not in left


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_becomes_a_container_without_rights(name: str, tmp_path: Path) -> None:
    service = SERVICES[name]
    sources = {mount["source"]: tmp_path for mount in service["volumes"]}
    image = {"User": "10001:10001", "Env": ["PATH=/opt/cdtl/bin"], "Entrypoint": ["cdtl"], "WorkingDir": "/state"}
    if not Path("/usr/share/containers/seccomp.json").exists():
        pytest.skip("needs the profile that comes with buildah")
    config = bundle(service, image, tmp_path, sources, Path("/run/netns/x"))
    assert config["root"]["readonly"] is True
    assert config["process"]["user"] == {"uid": 10001, "gid": 10001}
    assert config["process"]["args"][2:4] == ["cdtl", *service["command"][:1]]
    assert set(map(len, config["process"]["capabilities"].values())) == {0}
    assert config["linux"]["resources"]["memory"] == {"limit": 4 * 1024**3, "swap": 4 * 1024**3}
    by_place = {mount["destination"]: mount for mount in config["mounts"]}
    assert {by_place[place]["options"][1] for place in by_place.keys() & {"/data", "/desk"}} == {"ro"}
    with pytest.raises(ValueError, match="privileged"):
        bundle({**service, "privileged": True}, image, tmp_path, sources, None)
    with pytest.raises(ValueError, match="without capabilities"):
        bundle({**service, "cap_drop": ["NET_RAW"]}, image, tmp_path, sources, None)


def test_the_system_calls_that_need_a_capability_are_not_in_the_profile() -> None:
    free = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}}
    bound = {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}
    arm = {"names": ["arm_fadvise64_64"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}}
    profile = seccomp({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [free, bound, arm]})
    assert profile["syscalls"] == [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    assert profile["defaultErrnoRet"] == 38


def test_sizes_of_the_compose_file() -> None:
    assert [size(text) for text in ("4g", "512m", 7, "1kb")] == [4 * 1024**3, 512 * 1024**2, 7, 1024]
    with pytest.raises(ValueError, match="many"):
        size("many")


def test_every_step_of_the_readme_is_one_that_the_study_plays() -> None:
    played = steps((ROOT / "docker" / "README.md").read_text())
    assert len(played) > 20
    kinds = {tuple(words[:3]) if words[0] == "docker" else words[0] for words in played}
    assert kinds == {"mkdir", "cp", *(("docker", "compose", verb) for verb in ("run", "up", "exec"))}
    assert any(words[-2:] == ["--set", "blend.settle=1"] for words in map(tiny, played))
    assert "160" not in {word for words in played for word in tiny(words)}
    with pytest.raises(ValueError, match="docker volume"):
        Study.play(Study.__new__(Study), ["docker", "volume", "prune", "-f"])


def test_a_machine_without_the_programs_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"apt-get install buildah debootstrap|sudo make images"):
        build.check_machine()


def test_pips_settings_travel_into_the_build_with_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index" / "simple"
    settings = tmp_path / "settings"
    settings.write_text(
        f"[global]\ncert = {tmp_path}/ca.crt\nfind-links = {wheels}\nextra-index-url = file://{index}\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    for name in ("PIP_CERT", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    mounts = {place: source for source, place in build.pip_settings(tmp_path)}
    assert mounts["/etc/pip-ca.crt"] == tmp_path / "ca.crt"
    assert mounts[str(wheels)] == wheels
    assert mounts[str(index.parent)] == index.parent
    assert "cert = /etc/pip-ca.crt" in (tmp_path / "pip.conf").read_text()


@pytest.mark.attack("an image holds no tool for an attacker", "plant setuid, pip, a compiler, a writable file")
def test_what_must_not_be_in_an_image_is_found(tmp_path: Path, tries: Any) -> None:
    for name in ("var/lib/dpkg", "usr/bin", "tmp", "opt/cdtl/lib/python3.11/site-packages/numpy-2.dist-info"):
        (tmp_path / name).mkdir(parents=True, mode=0o755)
    (tmp_path / "var/lib/dpkg/status").write_text("Package: bash\nStatus: installed\nVersion: 5.2\n\n")
    (tmp_path / "opt/cdtl/lib/python3.11/site-packages/numpy-2.dist-info/METADATA").write_text(
        "Name: numpy\nVersion: 2\n"
    )
    found = contents(tmp_path)
    assert (found.packages, found.distributions, faults(found)) == (["bash 5.2"], ["numpy 2"], [])
    for name, mode in (
        ("usr/bin/su", 0o4755),
        ("usr/bin/wall", 0o2755),
        ("usr/bin/gcc-12", 0o755),
        ("usr/bin/pip3", 0o755),
        ("usr/x", 0o666),
    ):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
        assert [line.split()[0] for line in faults(contents(tmp_path))] == [f"/{name}"]
        (tmp_path / name).unlink()
        tries.add()


@pytest.mark.attack("a container that is too free is noticed", "each fault of a container alone")
def test_every_fault_of_a_container_is_said(tries: Any) -> None:
    status = {"CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
    good = {"user": [10001, 10001, []], "status": status, "reached": {"10.0.0.2": "open", "10.0.1.2": "unreachable"}}
    good["written"] = {"/x": "EROFS", "/tmp/x": "written"}
    assert judged(good, {"10.0.0.2"}) == []
    faulty = [
        {"user": [0, 0, [0]]},
        {"written": {"/x": "written"}},
        {"reached": {**good["reached"], "10.0.1.2": "refused"}},
    ]
    faulty += [{"reached": {"10.0.0.2": "unreachable"}}]
    faulty += [
        {"status": {**status, key: value}} for key, value in (("CapEff", "a"), ("NoNewPrivs", "0"), ("Seccomp", "0"))
    ]
    for fault in faulty:
        assert len(judged({**good, **fault}, {"10.0.0.2"})) == 1
        tries.add()


@pytest.mark.attack("a site's key stays in its filter", "read every file of the node's and the neighbours' volumes")
def test_a_key_that_a_service_must_not_see_is_found_under_any_name(tmp_path: Path, tries: Any) -> None:
    study = Study.__new__(Study)
    study.compose, study._folder = COMPOSE, tmp_path
    for volume in COMPOSE["volumes"]:
        for name in ("site.key", "patient.key", "link/node.key"):
            path = tmp_path / "volumes" / volume / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{volume} {name}")
    hidden = {name: set(study.keys_of_others(name).values()) for name in SERVICES}
    assert "north: site.key" in hidden["north-node"] & hidden["east"] & hidden["coordinator"]
    assert "north: site.key" not in hidden["north"]
    assert "north: patient.key" not in hidden["north-node"]
    assert "east: patient.key" in hidden["north-node"]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "image.npy").write_text("north site.key")
    assert probe.hashes(tmp_path / "cache").keys() & study.keys_of_others("north-node").keys()
    tries.add(sum(map(len, hidden.values())))


def test_the_probe_tells_open_refused_and_silent_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert probe.reached("127.0.0.1", port) == "open"
    assert probe.reached("127.0.0.1", port) == "refused"
    assert probe.written("/proc/x") in ("ENOENT", "EACCES", "EPERM")
