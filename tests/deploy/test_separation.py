"""The separation of approved code is detected, reported, and required if the site asks for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdtl_core.deploy.readiness import check_site
from cdtl_core.deploy.sandbox import sandbox_fault
from cdtl_core.deploy.separation import (
    Separation,
    find_separation,
    note_separation,
    noted_separation,
    require_separation,
)
from cdtl_core.errors import ConfigError

ASK = """
import sys, json
from pathlib import Path
from cdtl_core.deploy.separation import find_separation
found = find_separation(Path(sys.argv[1]))
print(json.dumps([found.kind, found.text]))
"""


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without bubblewrap."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_the_site_says_what_the_code_could_do_and_refuses_where_it_must(tmp_path: Path) -> None:
    (tmp_path / "site.key").write_text("a key")
    found = find_separation(tmp_path)
    assert found.kind == "none"
    assert "read the site's key" in found.text
    assert "install the package bubblewrap" in found.text
    with pytest.raises(ConfigError, match=r"require_separation is set .* NOT SEPARATED"):
        require_separation(found)
    require_separation(Separation("own", ""))


@pytest.mark.skipif(shutil.which("unshare") is None or bool(sandbox_fault()), reason="needs network namespaces")
@pytest.mark.parametrize("key", [True, False])
def test_a_container_without_network_is_a_separation_if_the_key_is_not_in_it(key: bool, tmp_path: Path) -> None:
    if key:
        (tmp_path / "site.key").write_text("a key")
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", ASK, str(tmp_path)]
    env = {**os.environ, "PATH": str(tmp_path)}
    unshare = shutil.which("unshare") or ""
    done = subprocess.run([unshare, *command[1:]], env=env, capture_output=True, text=True, check=True)
    kind, text = json.loads(done.stdout)
    assert kind == ("none" if key else "own")
    assert ("could read the site's key, since" in text) is key


def test_what_the_node_found_is_noted_for_status(tmp_path: Path) -> None:
    assert noted_separation(tmp_path) is None
    (tmp_path / "node").mkdir()
    note_separation(tmp_path, Separation("own", "apart"))
    assert noted_separation(tmp_path) == Separation("own", "apart")
    (tmp_path / "node" / "separation.json").write_text('{"kind": "perfect"}')
    assert noted_separation(tmp_path) is None


@pytest.mark.usefixtures("no_sandbox")
@pytest.mark.parametrize(("required", "state"), [(False, "warning"), (True, "wrong")])
def test_site_check_names_the_separation(required: bool, state: str, tmp_path: Path) -> None:
    (tmp_path / "site.key").write_text("a key")
    head = "require_separation = true\n" if required else ""
    settings = f'{head}site = "north"\nmodality = "ultrasound"\n[data.phantom]\npatients = 8\n'
    (tmp_path / "site.toml").write_text(settings)
    found = check_site(tmp_path, rehearse=False, tell=lambda _: None)
    states = {one["name"]: one["state"] for one in found["checks"]}
    assert states["separation"] == state
