"""Processor time of commands that train nothing, and of an approval; modules that importing the core loads."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from cdtl_core.config import RunConfig
from cdtl_core.system.durable import replace_bytes
from simulations.bench.program import python_program
from simulations.bench.ratio import alternate, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_LOADED = "import sys, cdtl_core; print('torch' in sys.modules)"
_NETWORK = "from cdtl_core.models.backbones import build_backbone as b; b('efficientnet_lite0', 128)"
_MADE = ("site init alba --name alba --modality ultrasound --phantom 40", "server init office --name localhost")
_COMMANDS = (
    "--help",
    "site status alba",
    "site log verify alba",
    "server status office",
    "server log verify office",
    "server invite office north",
    "server admit office alba/enrolment.json --yes",
    "config list",
    "config check demo",
    "doctor --quick",
)
_LEDGER = "privacy ledger alba"
_APPROVE = "site approve alba request.json --yes"


def commands(session: Session) -> Measured:
    """Measure every command; the value is that of the slowest, or nothing if one loads torch."""
    folder = _folder(session)
    found = alternate({one: partial(_cpu_seconds, one, folder) for one in _COMMANDS}, session.runs, warm=True)
    medians = {one: middle(seconds) for one, seconds in found.items()}
    if loads := [one for one in _COMMANDS if _loads_torch(one, folder)]:
        return Measured(None, f"cdtl {loads[0]} loads torch", found)
    note = ", ".join(f"{one.replace(' alba', '').replace(' office', '')} {value:.2f}" for one, value in medians.items())
    return Measured(max(medians.values()), note, found, "Python, typer and pydantic: 0.3 s for settings with every key")


def _ledger(session: Session) -> Measured:
    folder = _folder(session)
    found = alternate({"ledger": partial(_cpu_seconds, _LEDGER, folder)}, session.runs, warm=True)
    note = "loads torch" if _loads_torch(_LEDGER, folder) else "without torch"
    return Measured(middle(found["ledger"]), note, found, "Python, typer, pydantic, numpy; a bound by integration")


def _approve(session: Session) -> Measured:
    folder = _folder(session)
    arms = {
        "approve": partial(_cpu_seconds, _APPROVE, folder),
        "torch": partial(_cpu_seconds, "", folder, [sys.executable, "-c", "import torch"]),
        "network": partial(_cpu_seconds, "", folder, [sys.executable, "-c", _NETWORK]),
    }
    found = alternate(arms, session.runs, warm=True)
    note = f"importing torch alone takes {middle(found['torch']):.2f} s"
    floor = f"measured in the same turns: with timm, and the network built, {middle(found['network']):.2f} s"
    return Measured(middle(found["approve"]), note, found, floor)


def _torch(_session: Session) -> Measured:
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)  # noqa: S603
    return Measured(float(done.stdout.strip() == "True"), "1 if torch is loaded", runs=1)


def _folder(session: Session) -> Path:
    """Return a folder with a site, a coordinator, and the request of a run with the default settings."""
    folder = session.folder / "commands"
    if folder.exists():
        return folder
    folder.mkdir()
    for one in _MADE:
        subprocess.run(_command(one), cwd=folder, capture_output=True, check=True)  # noqa: S603
    replace_bytes(folder / "request.json", _request().encode())
    _spend(folder / "alba" / "privacy")
    return folder


def _spend(ledger: Path) -> None:
    """Take twelve private steps at the site, as its status and its ledger count them."""
    from cdtl_core.privacy.ledger import Budget, commit, open_ledger, reserve

    open_ledger(ledger, site="alba", num_patients=40)
    budget = Budget(target_epsilon=4.0, target_delta=1e-3, sample_rate=0.5, steps=60)
    if taken := reserve(ledger, run="study", round=1, steps=12, budget=budget):
        commit(ledger, taken, 12)


def _request() -> str:
    from cdtl_core.deploy.bundle import bundle_sha256
    from cdtl_core.deploy.request import make_request
    from cdtl_core.models.initial_weights import build_initial_weights
    from cdtl_core.models.weights import weights_hash

    run = RunConfig()
    found = weights_hash(build_initial_weights(run.model, run.seed, run.image.size))
    limits = run.limits.model_copy(update={"initial_weights_hash": found})
    return make_request(run.model_copy(update={"limits": limits}), bundle_sha256()).model_dump_json()


def _command(one: str) -> list[str]:
    return python_program("cdtl_core.cli.main", *one.split())


def _cpu_seconds(one: str, folder: Path, command: list[str] | None = None) -> float:
    process = subprocess.Popen(  # noqa: S603
        command or _command(one), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    used = os.wait4(process.pid, 0)[2]
    process.returncode = 0  # waited for here; a service that does not run is code 7
    return used.ru_utime + used.ru_stime


def _loads_torch(one: str, folder: Path) -> bool:
    traced = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(_command(one), cwd=folder, env=traced, capture_output=True, text=True)  # noqa: S603
    return re.search(r"\| *torch$", done.stderr, re.MULTILINE) is not None


ROWS = (
    Row("commands", "the slowest command that trains nothing: CPU seconds", 0.6, commands, unit="s", minutes=1.0),
    Row("ledger", "cdtl privacy ledger: CPU seconds", 0.6, _ledger, unit="s", minutes=0.1),
    Row("approve", "cdtl site approve: CPU seconds", 3.0, _approve, unit="s", minutes=0.6),
    Row("import", "import cdtl_core loads torch", 0.0, _torch, unit="", minutes=0.1),
)
