"""Full and read-only disks, damaged and torn files, and folders used by two processes."""

import logging
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import CheckpointError
from cdtl_core.simulation.simulate import resume_simulation
from tests.faults.rig import Fault, cut_after, finished, play, rounds_done, said

pytestmark = [pytest.mark.slow, pytest.mark.ci]
Tiny = Callable[..., SimulationConfig]
Line = Callable[[str], Fault]
Whole = Callable[[SimulationConfig], Path]


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of its own, 40 MB at first; skipped where mounting is not allowed."""
    disk, rig = tmp_path / "disk", tmp_path / "rig"
    disk.mkdir()
    rig.mkdir()
    monkeypatch.setenv("CDTL_RIG", str(rig))
    if os.geteuid() or not mounted("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)):
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def mounted(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_full_disk_is_said_in_a_sentence_and_with_room_the_run_ends_as_it_would_have(
    tiny: Tiny, whole: Whole, fault: Line, small_disk: Path
) -> None:
    """What is left for the run shrinks and grows from try to try, so that each kind of file meets the full disk."""
    config, line = tiny(), fault("full disk")
    expected, tries = whole(config), 0
    files = [path.stat() for path in expected.rglob("*") if path.is_file()]
    needed = sum({file.st_ino: file.st_size for file in files}.values())  # one file may have several names
    for share in (0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0):
        size = max(int(needed * share) // 4096 * 4096, 1 << 16)
        if not mounted("mount", "-o", f"remount,size={size}", str(small_disk)):
            continue  # smaller than what is on it already
        code = finished(play(config, small_disk / "run"))
        if code == 0:
            break
        tries += 1
        assert code in {4, 5, 6, 7}, f"share {share}: exit code {code}: {said(small_disk / 'run')}"
    assert tries >= 2
    assert mounted("mount", "-o", "remount,size=80m", str(small_disk))
    assert finished(play(config, small_disk / "run")) == 0, said(small_disk / "run")
    line.compare(small_disk / "run", expected, tries=tries)


def test_a_disk_that_turns_read_only_is_said_and_the_run_goes_on_when_it_is_writable(
    tiny: Tiny, whole: Whole, fault: Line, small_disk: Path
) -> None:
    config, out = tiny(), small_disk / "run"
    cut_after(config, out, 1)
    assert mounted("mount", "-o", "remount,ro", str(small_disk))
    assert finished(play(config, out)) == CheckpointError.exit_code, said(out)
    assert "Read-only file system" in said(out)
    assert mounted("mount", "-o", "remount,rw", str(small_disk))
    assert finished(play(config, out)) == 0, said(out)
    line = fault("read-only disk")
    line.kills += 1
    line.compare(out, whole(config))


def test_a_file_that_may_not_grow_is_said_and_the_run_goes_on_without_the_limit(
    tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    config, out = tiny(), tmp_path / "run"

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, resource.RLIM_INFINITY))

    cut_after(config, out, 1)
    code = finished(play(config, out, before=limited))
    assert code in {5, 6, 7}, said(out)
    assert finished(play(config, out)) == 0, said(out)
    line = fault("file size limit (quota)")
    line.kills += 1
    line.compare(out, whole(config))


@pytest.mark.parametrize("damage", ["cut", "flipped", "no note", "empty note"])
def test_a_damaged_checkpoint_falls_back_a_round_says_so_and_changes_nothing(
    damage: str, tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    config, out = tiny(), tmp_path / "run"
    cut_after(config, out, 2)
    newest = sorted((out / "checkpoints" / "cdtl").glob("round-*"))[-1]
    before = rounds_done(out)
    harm(newest, damage)
    assert rounds_done(out) == before - 1

    def listening() -> None:
        logging.getLogger("cdtl.server").addHandler(logging.FileHandler(tmp_path / "heard"))

    assert finished(play(config, out, before=listening)) == 0, said(out)
    assert f"{newest.name} is damaged" in (tmp_path / "heard").read_text()
    line = fault("damaged checkpoint: one back")
    line.kills += 1
    line.compare(out, whole(config))


def harm(folder: Path, damage: str) -> None:
    tensors, text = folder / "state.safetensors", folder / "state.json"
    content = tensors.read_bytes()
    match damage:
        case "cut":
            tensors.write_bytes(content[: len(content) // 2])
        case "flipped":
            tensors.write_bytes(content[:-100] + bytes([content[-100] ^ 4]) + content[-99:])
        case "no note":
            text.unlink()
        case "empty note":
            text.write_text("")


def test_when_every_checkpoint_is_damaged_the_run_says_what_it_cannot_recover(
    tiny: Tiny, fault: Line, tmp_path: Path
) -> None:
    config, out = tiny(), tmp_path / "run"
    cut_after(config, out, 2)
    for folder in (out / "checkpoints" / "cdtl").glob("round-*"):
        harm(folder, "cut")
    assert finished(play(config, out)) == CheckpointError.exit_code
    assert "every checkpoint in" in said(out)
    line = fault("every checkpoint damaged: refused by name")
    line.tried, line.survived, line.repeated, line.kills = line.tried + 1, line.survived + 1, None, line.kills + 1


def test_half_written_files_of_a_killed_process_are_not_taken_for_whole_ones(
    tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    config, out = tiny(), tmp_path / "run"
    cut_after(config, out, 1)
    planted = 0
    for path in [*out.rglob("*.safetensors"), *out.rglob("*.json"), *out.rglob("*.toml")]:
        path.with_name(f".{path.name}.draft").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        planted += 1
    shutil.copytree(next((out / "checkpoints" / "cdtl").glob("round-*")), out / "checkpoints" / "cdtl" / ".draft-0002")
    (out / "checkpoints" / "cdtl" / ".draft-0002" / "state.safetensors").write_bytes(b"half")
    for path in [out / "rounds.jsonl", *out.glob("sites/*/rounds/*.jsonl")]:
        with open(path, "a") as file:
            file.write('{"method": "cdtl", "round": 2, "si')
        planted += 1
    assert finished(play(config, out)) == 0, said(out)
    line = fault("half-written files")
    line.kills += 1
    line.compare(out, whole(config), tries=planted)


def test_a_second_server_on_one_folder_is_refused_and_harms_nothing(
    tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    config, out = tiny(), tmp_path / "run"
    cut_after(config, out, 1)
    first = play(config, out)
    line, refusals = fault("two servers on one folder"), 0
    while os.waitpid(first, os.WNOHANG) == (0, 0):
        second = finished(play(config, out))
        refusals += second == CheckpointError.exit_code
        assert second in {0, CheckpointError.exit_code}, said(out)
    assert refusals > 0
    assert "is in use by another cdtl process" in said(out)
    line.kills += 1
    line.compare(out, whole(config), tries=refusals)


def test_no_run_in_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        resume_simulation(tmp_path)
