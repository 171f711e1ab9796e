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

from cdtl_core.cli.main import app
from cdtl_core.config import RunConfig
from cdtl_core.config.settings import load_run
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
    assert function == "program"
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
