"""The documents: every command of the two guides runs, in order, with real processes."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from cdtl_core import __version__
from cdtl_core.cli.main import app
from cdtl_core.config import ApprovalConfig, RunConfig, SiteConfig
from cdtl_core.deploy.gateway_config import GatewayLimits
from cdtl_core.system.shipped import bundle_root

ROOT = bundle_root()
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
OFFICE, HOSPITAL, POST = "coordinator.md", "hospital.md", "post"

NOT_RUN = {
    "make release": "tests/test_packaging.py makes it twice",
    "sha256sum dist/SHA256SUMS": "as above",
    "sha256sum --check SHA256SUMS": "as above",
    "python3.11 -m venv cdtl-env": "an installation takes minutes; make images does it with the same commands",
    ". cdtl-env/bin/activate": "as above; the tests' own environment is active",
    "pip install --require-hashes -r requirements.lock": "as above",
    f"pip install --no-deps cdtl-{__version__}-py3-none-any.whl": "as above",
    "python cpu_torch.py lock requirements.lock > cpu.lock": "as above",
    "pip install --require-hashes --no-deps -r cpu.lock": "as above",
    "python cpu_torch.py strip cdtl-env/lib/python3.11/site-packages": "as above",
    "cdtl site desk north": "a page for a browser: tests/desk/browser walks through it",
    "sudo cp cdtl-coordinator.service /etc/systemd/system/": "needs root, and would change this machine",
    "sudo systemctl enable --now cdtl-coordinator": "needs systemd and root",
    "sudo cp cdtl-site.service /etc/systemd/system/": "needs root, and would change this machine",
    "sudo systemctl enable --now cdtl-site": "needs systemd and root",
    "sudo useradd --system cdtl": "would change this machine",
    "sudo useradd --system cdtl-node": "as above",
    "sudo cp cdtl-filter.service cdtl-node.service /etc/systemd/system/": "needs root, and would change this machine",
    "sudo systemctl enable --now cdtl-filter cdtl-node": "needs systemd and root",
    "cdtl server desk coordinator": "tests/desk/browser walks it",
}
"""Commands of the pages that no test runs, each with the reason."""

SUM = (
    'cat north/logs/egress*.jsonl | python3 -c "import json, sys; '
    "print(sum(sent['bytes'] for line in sys.stdin for sent in json.loads(line).get('requests', {}).values()), "
    "'bytes')\""
)
RUN = "cdtl server run coordinator study.toml"
STORY = (
    (OFFICE, "cdtl --version", "cdtl 0"),
    (
        OFFICE,
        "cdtl server init coordinator --name federation.example.org --port 8443",
        "Keep coordinator/authority/ca.key",
    ),
    (OFFICE, "cdtl server start coordinator", "in the background until: the coordinator answers"),
    (OFFICE, "cdtl server unit coordinator --user cdtl > cdtl-coordinator.service", ""),
    (
        OFFICE,
        "curl --silent --show-error --cacert coordinator/tls/ca.crt https://federation.example.org:8443/health",
        "ok",
    ),
    (OFFICE, "cdtl server invite coordinator north", "It holds nothing secret"),
    (POST, "coordinator/invitations/north.json", "north.json"),
    (HOSPITAL, "cdtl --version", "cdtl 0"),
    (HOSPITAL, "cdtl data make-manifest images/ --patient-pattern '^(P[0-9]+)_'", "manifest.csv"),
    (HOSPITAL, "cdtl data check images/ --modality ultrasound", "No errors."),
    (
        HOSPITAL,
        "cdtl site init north --invite north.json --modality ultrasound --data images/",
        "Compare by telephone",
    ),
    (HOSPITAL, "cat north/enrolment.json", '"patients": 20'),
    (POST, "north/enrolment.json", "enrolment.json"),
    (OFFICE, "cdtl server admit coordinator enrolment.json", "north is admitted"),
    (OFFICE, "cdtl server status coordinator", "never seen"),
    (HOSPITAL, "cdtl site check north", "A round here"),
    (HOSPITAL, "cdtl site start north", "in the background until: the site is connected"),
    (HOSPITAL, "cdtl site unit north --user cdtl > cdtl-site.service", ""),
    (HOSPITAL, "cdtl site unit north --part filter > cdtl-filter.service", ""),
    (HOSPITAL, "cdtl site unit north --part node > cdtl-node.service", ""),
    (OFFICE, RUN, "in the background until: approval is waited for"),
    (POST, "coordinator/runs/study/request.json", "request.json"),
    (OFFICE, "cdtl server status coordinator --json", "it has not approved this run"),
    (OFFICE, "cdtl server stop coordinator --run study", "being stopped"),
    (POST, "the run has ended", "stopped"),
    (OFFICE, RUN, "in the background until: approval is waited for"),
    (HOSPITAL, 'cdtl site approve north request.json --note "Dr. Roe, ethics vote 17/26"', "byte for byte"),
    (POST, "the run has ended", "completed"),
    (HOSPITAL, "cdtl site status north", "Model: models/study-fedbn"),
    (HOSPITAL, "cdtl predict north/models/study-cdtl images/malignant/P001_1.png", "p_malignant"),
    (HOSPITAL, "tail -n 3 north/logs/egress.jsonl", '"kind": "traffic"'),
    (HOSPITAL, SUM, " bytes"),
    (HOSPITAL, "cdtl site log verify north", "egress: whole"),
    (HOSPITAL, "cdtl site approve north request.json --withdraw", "no longer approved"),
    (HOSPITAL, "cdtl site stop north", "Stopped."),
    (HOSPITAL, "(umask 077; tar -czf north-backup.tgz --exclude=north/cache north)", ""),
    (HOSPITAL, "cdtl site leave north", "Kept: models, memory, logs, site.key"),
    (OFFICE, "cdtl server renew coordinator", "Renewed"),
    (OFFICE, "cdtl server log verify coordinator", "access: whole"),
    (OFFICE, "cdtl server revoke coordinator north", "north is revoked"),
    (OFFICE, "cdtl server stop coordinator", "Stopped."),
    (OFFICE, "(umask 077; tar -czf coordinator-backup.tgz --exclude=coordinator/flower coordinator)", ""),
)
"""Whose page, the command, and what it must say (or, in the background, what is waited for); POST: file, copied as."""


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[str]:
    """Return the commands after ``$ `` in a page."""
    lines = "".join(blocks(ROOT / "docs" / name, "console")).splitlines()
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ") for line in lines]


@pytest.mark.parametrize("name", [OFFICE, HOSPITAL])
def test_every_command_of_a_desk_is_run_by_the_story_or_has_a_reason(name: str) -> None:
    told = [command for page, command, _ in STORY if page == name]
    listed = [command for command in commands(name) if command not in NOT_RUN]
    assert sorted(told) == sorted(listed)
    assert set(NOT_RUN) <= {*commands(OFFICE), *commands(HOSPITAL)}


def cdtl_commands() -> list[str]:
    """``cdtl ...`` in the fences and in the running text of all pages; what follows a ``#`` is a remark."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        joined = [re.sub(r"\\\n\s*", "", fence) for fence in fences]
        lines = [line.removeprefix("$ ") for fence in joined for line in fence.splitlines()]
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        found += [re.split(r" # | > ", line)[0] for line in (*lines, *inline) if line.startswith("cdtl ")]
    return sorted(set(found))


@pytest.mark.parametrize("command", cdtl_commands())
def test_every_cdtl_command_in_the_pages_exists_with_its_options(command: str) -> None:
    node: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while isinstance(node, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in node.commands, f"cdtl has no command {words[0]}"
        node = node.commands[words.pop(0)]
    known = {name for param in node.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    assert [word for word in words if word.startswith("-") and word.partition("=")[0] not in known] == []


def test_the_settings_in_the_pages_are_settings() -> None:
    study, limits = blocks(ROOT / "docs" / OFFICE, "toml")
    assert RunConfig.model_validate(tomllib.loads(study)).federation.sites == ("north", "south")
    told = tomllib.loads(limits)["limits"]
    assert GatewayLimits.model_validate(told) == GatewayLimits(), "the page says other defaults than the code"
    persons, locks = blocks(ROOT / "docs" / HOSPITAL, "toml")
    keys = re.sub(r"AAAA\.\.\.", lambda found: f"{found.start():068d}", persons)
    assert ApprovalConfig.model_validate(tomllib.loads(keys)["approval"]).people == 2
    tree = {"site": "north", "modality": "ultrasound", "data": {"manifest": "manifest.csv"}, **tomllib.loads(locks)}
    assert len(SiteConfig.model_validate(tree).lock) == 2


@pytest.mark.parametrize("name", [OFFICE, HOSPITAL])
def test_the_sentences_in_the_pages_are_those_of_the_program(name: str) -> None:
    folders = ("cdtl_core", "server", "client")
    code = "".join(path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py"))
    code = re.sub(r"\"\n\s*f?\"|\{[^{}\n]*\}", "", code)
    table = (ROOT / "docs" / name).read_text(encoding="utf-8").split("## Sentences")[1]
    rows = [line.split(" | ")[0] for line in table.splitlines()[3:]]
    quoted = [sentence for row in rows for sentence in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 8
    pieces = [
        piece for sentence in quoted for piece in re.split(r"\.\.\.|\bnorth\b|\b0\b|(?<!\w)'|'(?!\w)|: ", sentence)
    ]
    assert [piece for piece in pieces if piece.strip(" /:") and piece.strip(" /:") not in code] == []


@pytest.mark.integration
@pytest.mark.attack("a backup is the owner's alone", "the documented backup commands, umask 022")
@pytest.mark.parametrize("name", [OFFICE, HOSPITAL])
def test_a_backup_of_the_keys_is_readable_by_its_owner_only(name: str, tmp_path: Path) -> None:
    (command,) = [command for command in commands(name) if "tar " in command]
    for folder in ("coordinator", "north"):
        (tmp_path / folder).mkdir()
    subprocess.run(["/bin/sh", "-c", f"umask 022; {command}"], cwd=tmp_path, check=True)
    (copy,) = tmp_path.glob("*.tgz")
    assert copy.stat().st_mode & 0o077 == 0


def test_every_test_that_security_names_exists() -> None:
    """SECURITY.md says which test attacks which property: no row may point to nothing."""
    text = Path("SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests/[a-z_/]*)?test_[a-z_]+\.py)`", text))
    found = {path.name for path in Path("tests").rglob("test_*.py")}
    assert len(named) > 20
    assert not [name for name in named if Path(name).name not in found or ("/" in name and not Path(name).exists())]
