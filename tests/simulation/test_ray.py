"""Flower's own engine gives the same federation bit for bit, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

import pytest

from cdtl_core.config.settings import load_simulation
from cdtl_core.errors import FederationError
from cdtl_core.federation.journal import JournalFile
from cdtl_core.simulation.ray import LOG_FILE, run_with_ray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="counts processes in /proc"),
]

TINY = """
name = "tiny"
methods = ["cdtl"]
[image]
size = 32
[model]
backbone = "test_efficientnet"
weights = "random"
[train]
steps = 1
batch_size = 4
[federation]
rounds = 2
[blend]
settle = 0
[[sites]]
site = "north"
modality = "ultrasound"
data.phantom = { patients = 12, seed = 1 }
[[sites]]
site = "east"
modality = "mammography"
data.phantom = { patients = 12, seed = 2 }
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


def start(config: Path, out: Path, engine: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cdtl_core.cli.main", "simulate", str(config), "--engine", engine]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=config.parent,
        env=env,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # CI may run us with it ignored
    )


def started_for(out: Path) -> list[int]:
    """Processes of a run: those with its folder in their environment, also after their parents ended."""
    mark, found = f"CDTL_RUN={out}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # gone, or not ours
            continue
    return found


def wait_until(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_ray_and_one_process_agree_bit_for_bit(config: Path, tmp_path: Path) -> None:
    one, ray = tmp_path / "one", tmp_path / "ray"
    assert start(config, one, "in-process").wait(timeout=120) == 0
    assert start(config, ray, "ray").wait(timeout=300) == 0
    assert started_for(ray) == []
    for site in ("north", "east"):
        for name in ("model.safetensors", "model.json", "models/tiny-cdtl/scores.csv"):
            assert (one / "sites" / site / name).read_bytes() == (ray / "sites" / site / name).read_bytes(), name
    last = "checkpoints/cdtl/round-0002/state.safetensors"
    assert (one / last).read_bytes() == (ray / last).read_bytes()
    assert JournalFile(ray / "rounds.jsonl", "cdtl").finished()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_process(config: Path, tmp_path: Path, number: int) -> None:
    before = set(Path(gettempdir()).glob("cdtl-*"))
    process = start(config, tmp_path / "ray", "ray")
    try:
        wait_until(lambda: len(started_for(tmp_path / "ray")) > 6, timeout_s=120)  # Ray is up
        process.send_signal(number)
        assert process.wait(timeout=30) != 0
        wait_until(lambda: not started_for(tmp_path / "ray"), timeout_s=10)
        assert not set(Path(gettempdir()).glob("cdtl-*")) - before
    finally:
        process.kill()
        process.wait()


def test_a_failing_site_ends_the_run_with_one_sentence_and_its_own_words_in_the_log(
    config: Path, tmp_path: Path
) -> None:
    settings, out = load_simulation(config), tmp_path / "ray"
    homes = [out / "sites" / own.site for own in settings.sites]
    for home in homes:
        home.mkdir(parents=True)
    run = settings.of_method("cdtl")
    with pytest.raises(FederationError, match=rf"finished:failed.*{LOG_FILE}\.$") as caught:
        run_with_ray(run, out, homes)
    assert "site.toml" in (out / LOG_FILE).read_text()
    assert "site.toml" not in str(caught.value)
    assert started_for(out) == []


def test_a_stray_folder_beside_the_sites_is_refused(config: Path, tmp_path: Path) -> None:
    settings, out = load_simulation(config), tmp_path / "ray"
    homes = [out / "sites" / own.site for own in settings.sites]
    for home in [*homes, out / "sites" / "stray"]:
        home.mkdir(parents=True)
    with pytest.raises(FederationError, match="3 folders for 2 sites"):
        run_with_ray(settings.of_method("cdtl"), out, homes)
