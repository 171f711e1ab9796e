"""The containers, as far as they can be checked without an engine: copies, commands, locks and mounts."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from cdtl_core import __version__
from cdtl_core.cli.main import app
from cdtl_core.config import RunConfig
from cdtl_core.config.settings import load_run
from cdtl_core.deploy.link import NODE_FOLDERS
from cdtl_core.system.shipped import bundle_root, find_config

ROOT = bundle_root()
DOCKER = ROOT / "docker"
FILES = [ROOT / ".dockerignore", *sorted(path for path in DOCKER.iterdir() if path.is_file())]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UID = 10001

DOCKERFILE = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
STAGES = {
    re.findall(r"\S+", head)[-1]: body
    for head, body in re.findall(r"^FROM (.+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE)
}
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
PUBLIC = yaml.safe_load((DOCKER / "public.yaml").read_text())
MANIFESTS = {one["kind"]: one for one in yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text())}
SERVICES: dict[str, Any] = COMPOSE["services"]
SITES = sorted(name for name in SERVICES if f"{name}-node" in SERVICES)
NODES = [f"{name}-node" for name in SITES]
HOSPITAL = list(yaml.safe_load_all((DOCKER / "kubernetes-site.yaml").read_text()))
POD = MANIFESTS["StatefulSet"]["spec"]["template"]["spec"]


def copied() -> list[str]:
    lines = [line.split() for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)]
    return [word for words in lines if not words[0].startswith("--from=") for word in words[:-1]]


def instruction(stage: str, name: str) -> Any:
    """The JSON words of a stage's last instruction of that name."""
    return yaml.safe_load(re.findall(rf"^{name} .*?(\[.*\])$", STAGES[stage], re.MULTILINE)[-1])


def code_lines() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", (DOCKER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def in_readme(line: str) -> list[str]:
    """The words after `cdtl` that a line of the README gives to a container; none if it calls something else."""
    words = shlex.split(line, comments=True)
    if words[:3] == ["docker", "compose", "run"] and "--entrypoint" not in words:
        return words[next(i for i, word in enumerate(words) if word in SERVICES) + 1 :]
    if words[:2] == ["docker", "run"]:
        return words[len(words) - words[::-1].index("cdtl-site") :]
    return words[words.index("cdtl", 4) + 1 :] if words[-1:] and "cdtl" in words[4:] else []


def in_images() -> Iterator[list[str]]:
    for stage in STAGES:
        for name in ("CMD", "HEALTHCHECK"):
            if re.search(rf"^{name} ", STAGES[stage], re.MULTILINE):
                words = instruction(stage, name)
                yield words[1:] if words[0] == "cdtl" else words


def commands() -> list[str]:
    """Every use of the command line in the folder, without `cdtl` itself."""
    found = [*in_images(), *(in_readme(line) for line in code_lines())]
    found += [service["command"] for service in SERVICES.values()]
    found += [service["healthcheck"]["test"][2:] for service in SERVICES.values()]
    found += [container["args"] for container in POD["containers"]]
    found += [shlex.split(container["args"][0].split("|| cdtl ")[1]) for container in POD["initContainers"]]
    return sorted({shlex.join(words) for words in found if words})


def test_every_path_that_is_copied_exists_and_is_let_in() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    assert let_in == set(copied())
    excluded = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert not [name for name in let_in if any(fnmatch.fnmatch(name, rule) for rule in excluded)]


def test_all_that_the_wheel_needs_is_copied_and_no_more() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], PROJECT["project"]["readme"], "pyproject.toml"}
    locked = {"requirements.lock", "tools.lock", "docker/cpu_torch.py"}
    assert set(copied()) == needed | set(PROJECT["project"]["license-files"]) | locked


def test_the_last_target_is_the_simulation_and_the_others_share_one_installation() -> None:
    assert list(STAGES) == ["build", "deployed", "base", "service", "coordinator", "site", "simulation"]
    pinned = "${PYTHON_IMAGE}@sha256:${PYTHON_SHA256}"
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == [
        pinned,
        "build",
        pinned,
        "base",
        "service",
        "service",
        "base",
    ]


@pytest.mark.attack("every image is built from pinned bytes", "a base by tag, a wheel without hash, an extra index")
def test_nothing_is_installed_that_is_not_pinned(tries: Any) -> None:
    """No digest is given in our files: it cannot be checked for the user, and an invented one would be worse."""
    assert re.findall(r"^ARG (PYTHON_\S+)", DOCKERFILE, re.MULTILINE) == [
        "PYTHON_IMAGE=python:3.11-slim",
        "PYTHON_SHA256",
    ]
    installs = re.findall(r"pip (?:--python \S+ )?install [^&;]+", DOCKERFILE)
    for install in installs:
        tries.add()
        assert ("--require-hashes --" in install and ".lock" in install) or "--no-deps --no-index /tmp/wheel" in install
    assert len(installs) == 3
    assert not re.search(r"INDEX|--(extra-)?index-url|--find-links", DOCKERFILE)
    builds = [service["build"]["args"] for service in SERVICES.values() if "build" in service]
    assert builds
    for given in builds:
        tries.add()
        assert given["PYTHON_SHA256"].startswith("${PYTHON_SHA256:?")  # Compose stops with a sentence without it
        assert set(given) == {"PYTHON_IMAGE", "PYTHON_SHA256", "TORCH"}


def test_images_run_as_a_numbered_user_and_end_on_sigterm() -> None:
    assert f"USER {UID}:{UID}\n" in STAGES["base"]
    assert not re.findall(r"^USER", "".join(STAGES[name] for name in STAGES if name != "base"), re.MULTILINE)
    assert "STOPSIGNAL SIGTERM\n" in STAGES["base"]
    assert "PYTHONDONTWRITEBYTECODE=1" in STAGES["base"]
    assert instruction("base", "ENTRYPOINT") == ["cdtl"]
    assert "EXPOSE" not in STAGES["site"]


@pytest.mark.integration
def test_the_entry_point_runs_outside_a_container() -> None:
    module, function = PROJECT["project"]["scripts"]["cdtl"].split(":")
    assert function == "main"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_commands_are_found_wherever_they_stand() -> None:
    verbs = {" ".join(command.split()[:2]) for command in commands()}
    assert verbs >= {"server init", "server start", "server status", "server admit", "server run"}
    assert verbs >= {"site init", "site start", "site status", "site approve"}
    assert sum("init" in command for command in commands()) == 6  # coordinator, site: Compose and Kubernetes


@pytest.mark.parametrize("command", commands())
def test_each_command_exists_with_its_options(command: str) -> None:
    node: Any = typer.main.get_command(app)
    words = shlex.split(command)
    while isinstance(node, click.Group) and not words[0].startswith("-"):
        assert words[0] in node.commands, f"cdtl has no command {words[0]} (of: cdtl {command})"
        node = node.commands[words.pop(0)]
    places = [param for param in node.params if isinstance(param, click.Argument)]
    options = {name: param for param in node.params if isinstance(param, click.Option) for name in param.opts}
    given = 0
    while words:
        word = words.pop(0)
        assert not word.startswith("-") or word in {*options, "--help"}, f"no option {word} (of: cdtl {command})"
        given += not word.startswith("-")
        if word in options and not options[word].is_flag:
            words.pop(0)
    least = sum(place.required for place in places)
    assert least <= given <= len(places), f"wrong number of arguments (in: cdtl {command})"


def test_the_readme_takes_every_party_from_nothing_to_an_approved_run() -> None:
    said = "\n".join(code_lines())
    for site in SITES:
        assert f"{site} site init /state/site --name {site} " in said
        assert f"cdtl server admit /state/coordinator /desk/{site}.json" in said
        assert f"exec {site} cdtl site approve /state/site /desk/request.json" in said
        for desk in (f"desk/{site}/ca.crt", f"desk/{site}/request.json", f"desk/{site}/enrolment.json", f"data/{site}"):
            assert desk in said
    demo: RunConfig = load_run(find_config(Path("demo")))
    assert f"/state/coordinator/runs/{demo.name}/request.json" in said
    host = SERVICES["north"]["command"][SERVICES["north"]["command"].index("--server") + 1]
    assert host.split(":")[0] in re.findall(r"server init \S+ --name (\S+)", said)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_of_compose_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"][0].startswith("/tmp:")
    assert service["pids_limit"] > 0
    assert service["mem_limit"] == service["memswap_limit"]
    assert not {"privileged", "user", "ports", "cap_add", "pid", "env_file"} & set(service)
    assert service["image"].endswith(f":{__version__}")
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    assert service["build"]["target"] in STAGES


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_asked_for_its_health_as_its_image_says(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    own = ["--part", "node"] if name in NODES else []
    assert check["test"] == ["CMD", *instruction(SERVICES[name]["build"]["target"], "HEALTHCHECK"), *own]
    assert check["test"][4] in SERVICES[name]["command"]
    assert check["test"][4].startswith("/state/")


def test_a_site_reaches_only_the_coordinator() -> None:
    assert len(SITES) == 3
    for site in SITES:
        networks = SERVICES[site]["networks"]
        assert len(networks) == 1
        assert COMPOSE["networks"][networks[0]] == {"internal": True}
        assert {name for name, service in SERVICES.items() if networks[0] in service.get("networks", ())} == {
            "coordinator",
            site,
        }
        assert SERVICES[site]["depends_on"] == {"coordinator": {"condition": "service_healthy"}}
    assert SERVICES["coordinator"]["sysctls"] == {"net.ipv4.ip_forward": "0"}


def test_images_of_patients_are_read_only_and_no_party_sees_another_partys_files() -> None:
    sources: list[str] = []
    for name, service in SERVICES.items():
        if name in NODES:
            continue
        mounts = {mount["target"]: mount for mount in service["volumes"]}
        assert set(mounts) == {"/state", "/desk"} | ({"/data"} if name in SITES else set())
        assert mounts["/state"]["type"] == "volume"
        assert mounts["/state"]["source"] in COMPOSE["volumes"]
        binds = [mount for mount in mounts.values() if mount["type"] == "bind"]
        assert all(mount["read_only"] is True and mount["bind"] == {"create_host_path": False} for mount in binds)
        sources += [mount["source"] for mount in mounts.values()]
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_no_network_and_of_its_site_only_what_the_code_writes_and_the_link(name: str) -> None:
    service, site = SERVICES[name], name.removesuffix("-node")
    assert service["network_mode"] == "none"
    assert "networks" not in service
    assert service["command"] == ["site", "start", "/state/site", "--part", "node"]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert mounts.pop("/data") == SERVICES[site]["volumes"][2]
    for place, mount in mounts.items():
        assert (mount["type"], mount["source"]) == ("volume", site)
        assert f"/state/{mount['volume']['subpath']}" == place
    assert mounts.pop("/state/site/link")["read_only"] is True
    assert set(mounts) == {f"/state/site/{folder}" for folder in (*NODE_FOLDERS, "node")}


def test_a_hospitals_node_on_kubernetes_has_no_way_in_or_out_and_no_key() -> None:
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in HOSPITAL if one["kind"] == "StatefulSet"}
    policies = {one["metadata"]["name"]: one["spec"] for one in HOSPITAL if one["kind"] == "NetworkPolicy"}
    for name, pod in pods.items():
        assert policies[name]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
        assert policies[name]["policyTypes"] == ["Ingress", "Egress"]
        assert policies[name]["ingress"] == []
        context = pod["spec"]["containers"][0]["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
        assert pod["spec"]["securityContext"]["runAsUser"] == UID
        assert pod["spec"]["automountServiceAccountToken"] is False
    assert policies["node"]["egress"] == []
    mounts = {mount["mountPath"]: mount for mount in pods["node"]["spec"]["containers"][0]["volumeMounts"]}
    kept = {f"/state/site/{folder}" for folder in (*NODE_FOLDERS, "node")}
    assert set(mounts) == kept | {"/state/site/link", "/data", "/tmp"}
    assert mounts["/state/site/link"]["readOnly"] is mounts["/data"]["readOnly"] is True
    assert all(mounts[place]["subPath"] == place.removeprefix("/state/") for place in kept)
    near = pods["node"]["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert near["labelSelector"]["matchLabels"] == pods["filter"]["metadata"]["labels"]


def test_only_the_public_file_opens_a_port_and_only_the_gateways() -> None:
    assert set(PUBLIC["services"]) == {"coordinator"}
    assert PUBLIC["services"]["coordinator"]["ports"] == ["8443:8443"]
    assert not [name for name in PUBLIC["networks"] if name in COMPOSE["networks"]]


@pytest.mark.parametrize("container", POD["initContainers"] + POD["containers"], ids=lambda one: one["name"])
def test_the_pod_is_locked_down(container: dict[str, Any]) -> None:
    pod = POD["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["fsGroup"]) == (True, UID, UID)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["fsGroupChangePolicy"] == "OnRootMismatch"
    assert POD["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/state", "/tmp"}
    assert container["image"] == f"cdtl-coordinator:{__version__}"
    assert "memory" in container["resources"]["limits"]


def test_the_pod_is_one_keeps_its_volume_and_is_probed_over_tls() -> None:
    spec, container = MANIFESTS["StatefulSet"]["spec"], POD["containers"][0]
    assert spec["replicas"] == 1
    claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    given = claimed | {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == given
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "gateway", "scheme": "HTTPS"}


def test_into_the_pod_leads_the_gateways_port_only_and_nothing_leads_out() -> None:
    labels = MANIFESTS["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    policy, service = MANIFESTS["NetworkPolicy"]["spec"], MANIFESTS["Service"]["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"] == labels
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": 8443, "protocol": "TCP"}]}]
    assert policy["egress"] == []
    assert [port["port"] for port in service["ports"]] == [8443]
    assert POD["containers"][0]["ports"] == [{"name": "gateway", "containerPort": 8443}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_a_registry_an_index_or_a_secret(path: Path) -> None:
    text = path.read_text()
    hosts = set(re.findall(r"\b(?:[a-z0-9-]+\.)+(?:io|com|org|net|dev|cloud|ai)\b", text))
    assert {host for host in hosts if not host.endswith((".k8s.io", "kubernetes.io", "example.org"))} == set()
    assert not re.search(r"https?://", text)
    assert not re.search(r"(?i)(password|passwd|secret)\s*[:=]\s*\S", text)
