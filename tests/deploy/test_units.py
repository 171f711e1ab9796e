"""The systemd units of a site in two accounts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cdtl_core.deploy.link import NODE_FOLDERS
from cdtl_core.deploy.systemd import filter_unit, node_unit, unit_text

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
