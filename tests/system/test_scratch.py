"""A scratch folder ends with its owner; one of a killed owner is removed by the next, and no other folder is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cdtl_core.system.durable import LOCK_FILE
from cdtl_core.system.scratch import scratch_folder

pytestmark = pytest.mark.integration

OWNER = """
import sys
from cdtl_core.system.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "client.key").write_text("secret")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test and the processes that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def owner() -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a scratch folder until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_killed_owner_is_removed_by_the_next_and_that_of_a_living_one_stays(temporary: Path) -> None:
    killed, left = owner()
    living, used = owner()
    killed.kill()
    killed.communicate()
    assert (left / "client.key").exists()
    with scratch_folder("rehearsal-") as folder:
        assert folder.name.startswith("cdtl-rehearsal-")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert set(temporary.iterdir()) == {used, folder}
    living.communicate()
    assert list(temporary.iterdir()) == []


def test_folders_of_others_and_what_links_lead_to_stay(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / LOCK_FILE).touch()
    (temporary / "cdtl-link").symlink_to(elsewhere)
    (temporary / "cdtl-inside").mkdir()
    (temporary / "cdtl-inside" / LOCK_FILE).symlink_to(elsewhere / LOCK_FILE)
    (temporary / "cdtl-unmarked").mkdir()
    (temporary / "other").mkdir()
    (temporary / "other" / LOCK_FILE).touch()
    kept = ["cdtl-inside", "cdtl-link", "cdtl-unmarked", "other"]
    if os.geteuid() == 0:
        (temporary / "cdtl-foreign").mkdir()
        (temporary / "cdtl-foreign" / LOCK_FILE).touch()
        os.chown(temporary / "cdtl-foreign", 65534, 65534)
        kept.insert(0, "cdtl-foreign")
    (temporary / "cdtl-dead").mkdir()
    (temporary / "cdtl-dead" / LOCK_FILE).touch()
    with scratch_folder():
        pass
    assert sorted(path.name for path in temporary.iterdir()) == kept
    assert (elsewhere / LOCK_FILE).exists()
