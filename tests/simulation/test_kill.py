"""kill -9 of a real process at random moments, then --resume."""

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import TINY

SETTINGS = ["--set", "federation.rounds=4", "--set", "train.steps=2", "--set", "methods=alone,cdtl"]
SETTINGS += ["--set", "model.backbone=test_efficientnet"]  # a process knows no stub


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cdtl_core.cli.main", "simulate", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def models(run: Path) -> dict[str, bytes]:
    found = sorted(run.glob("sites/*/*.safetensors")) + sorted(run.glob("sites/*/models/*/scores.csv"))
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.ci] * (seed < 1)) for seed in range(4)])
def test_killed_runs_end_with_the_same_models_and_report(tmp_path: Path, seed: int) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    finished(start(tmp_path, "tiny.toml", "--out", "whole", *SETTINGS))
    process, kills = start(tmp_path, "tiny.toml", "--out", "cut", *SETTINGS), 0
    choose = random.Random(seed)
    while kills < 6:
        started = tmp_path / "cut" / "config.toml"
        wait_s = choose.uniform(0.1, 2.0) if started.exists() else 0.05
        timer = threading.Event()
        timer.wait(wait_s)  # the random moment is the point here, there is no event to await
        if process.poll() is not None:
            break
        if started.exists():
            process.kill()
            process.communicate()
            kills += 1
            process = start(tmp_path, "--resume", "cut")
            wait_for_import(process, choose)
    finished(process)
    finished(start(tmp_path, "--resume", "cut"))
    assert kills > 0
    assert models(tmp_path / "cut") == models(tmp_path / "whole")
    assert (tmp_path / "cut" / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()


def wait_for_import(process: subprocess.Popen[bytes], choose: random.Random) -> None:
    """Most of a resumed process's life is importing torch: let it get past that, at times."""
    try:
        process.wait(timeout=choose.uniform(1.0, 6.0))
    except subprocess.TimeoutExpired:
        return
