"""A rehearsal of two rounds: its cost figures are measured, with the own model listed separately."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from cdtl_core.cli.rehearsing import print_checks
from cdtl_core.config import TaskConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.rehearsal import rehearse_rounds

CHECK = """
import sys
from pathlib import Path
from cdtl_core.cli.progress import ending_once
from cdtl_core.config import TaskConfig
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.rehearsal import rehearse_rounds
home = Path(sys.argv[1])
with ending_once():
    rehearse_rounds(home, load_site(home / "site.toml"), TaskConfig())
"""


@pytest.mark.slow
def test_a_rehearsal_says_what_the_own_model_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / SITE_FILE).write_text(
        'site = "north"\nmodality = "ultrasound"\ndata.phantom = { patients = 24, seed = 1 }\n'
    )
    told: list[str] = []
    found = rehearse_rounds(tmp_path, load_site(tmp_path / SITE_FILE), TaskConfig(), tell=told.append)
    steps = ["the coordinator starts ...", "the site starts and opens its images ...", "round 1 of 2 running ..."]
    told = [step for step in told if not step.endswith("s so far")]
    assert told[:3] == [f"rehearsal: {step}" for step in steps]
    assert 0 < found["own_seconds_per_round"] < found["site_seconds_per_round"]
    assert 0 < found["own_disk_bytes"] < found["disk_bytes"]
    assert found["disk_bytes"] > 3 * 13e6  # own, joint and both networks of the pool, of 3.4 million parameters each
    print_checks({"checks": [], "rehearsal": found})
    assert "train its own model in addition to the joint one" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_rehearsal_leaves_no_key(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / SITE_FILE).write_text(
        'site = "north"\nmodality = "ultrasound"\ndata.phantom = { patients = 24, seed = 1 }\n'
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as name, open(tmp_path / "said", "w") as said:  # for short sockets
        before, scratch = threading.Event(), Path(name)
        checking = subprocess.Popen(
            [sys.executable, "-c", CHECK, str(tmp_path)], env={**os.environ, "TMPDIR": name}, stderr=said
        )
        while len({path.name for path in scratch.rglob("*.key")} & {"client.key", "loopback.key"}) < 2:
            assert checking.poll() is None, (tmp_path / "said").read_text()
            before.wait(0.05)
        checking.send_signal(number)
        assert checking.wait(60) == (128 + number if number == signal.SIGTERM else -number)
        after = threading.Event()
        while number == signal.SIGKILL and list(scratch.iterdir()):  # the keeper removes it after the kill
            after.wait(0.05)
        assert list(scratch.iterdir()) == []
