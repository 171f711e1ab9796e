"""What commands load: torch and its like only where tensors are needed, since importing them takes seconds.

Each family of commands runs in one process, which stops at the first command that loads too much.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import RunConfig
from cdtl_core.deploy.request import make_request, save_request
from cdtl_core.privacy.ledger import Budget, commit, open_ledger, reserve
from tests.deploy.desk import with_initial_weights

RUN = RunConfig.model_validate({"image": {"size": 32}, "model": {"backbone": "test_efficientnet", "weights": "random"}})
TRAINS = ("torch._dynamo", "opacus", "sklearn", "matplotlib", "ray", "onnx", "torch.onnx", "scipy.stats", "pydicom")
PACS = ("dicomweb_client", "pynetdicom", "highdicom", "requests")
TENSORS = (*TRAINS, "torch", "torchvision", "timm", "flwr", "grpc", "httpx", "starlette", "scipy.optimize")
FAST = (*TENSORS, "scipy.integrate", "scipy.sparse", "scipy.signal", "numpy.f2py", "numpy.testing")
"""What a command that only reads a privacy ledger has no time for."""
SCRIPT = """
import contextlib, io, json, sys
from cdtl_core.cli.main import main

commands, heavy = json.loads(sys.argv[1])
for command in commands:
    said, code = io.StringIO(), 0
    sys.argv = ["cdtl", *command.split()]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        code = end.code
    loaded = [name for name in heavy if name in sys.modules]
    if loaded or code not in (0, None, 7):  # 7: a service does not run
        sys.exit(f"cdtl {command}: code {code}, loads {loaded}; {said.getvalue()[-800:]}")
"""

FAMILIES = {
    "help": (
        ["--help", "--version", "site --help", "config --help", "data --help", "data pull --help", "predict --help"],
        (*TENSORS, *PACS, "numpy", "pydantic", "jinja2"),
    ),
    "config": (
        ["config new study --out -", "config list", "config check demo", "config reference", "doctor --quick"],
        TENSORS,
    ),
    "data": (
        [
            "data make-manifest images --patient-pattern {patient}_* --out m.csv",
            "data check m.csv --modality ultrasound",
        ],
        (*TENSORS, "jinja2"),
    ),
    "server": (
        [
            "server init c --name localhost",
            "server renew c",
            "server invite c alba",
            "site init alba --invite c/invitations/alba.json --modality ultrasound --phantom 16",
            "server admit c alba/enrolment.json --yes",
            "server status c",
            "server log verify c",
            "server unit c",
            "server revoke c alba",
            "server stop c",
        ],
        TENSORS,
    ),
    "site": (
        [
            "site init alba --name alba --modality ultrasound --phantom 16",
            "site status alba",
            "site log verify alba",
            "site unit alba",
            "site renew alba",
            "report alba",
            "site stop alba",
            "site leave alba --yes",
        ],
        TENSORS,
    ),
    "private": (["site status alba"], FAST),
    "ledger": (["privacy ledger alba"], FAST),
    "approve": (
        [
            "site init alba --name alba --modality ultrasound --phantom 16",
            "site approve alba request.json --yes",
            "site status alba",
            "site approve alba request.json --withdraw",
        ],
        TRAINS,
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, the ledger of a site, and a request, for those that want them."""
    rng = np.random.default_rng(0)
    for label in ("benign", "malignant"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for patient in range(6):
            image = Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8))
            image.save(tmp_path / "images" / label / f"{label[0]}{patient:03}_1.png")
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_command_loads_nothing_heavy_that_it_does_not_need(folder: Path, family: str) -> None:
    if family == "private":
        _play(folder, ["site init alba --name alba --modality ultrasound --phantom 16"], TENSORS)
    if family in {"private", "ledger"}:
        open_ledger(folder / "alba" / "privacy", site="alba", num_patients=200)
        budget = Budget(target_epsilon=4.0, target_delta=1e-4, sample_rate=0.5, steps=30)
        reservation = reserve(folder / "alba" / "privacy", run="study", round=1, steps=12, budget=budget)
        assert reservation is not None
        commit(folder / "alba" / "privacy", reservation, 12)
    if family == "approve":
        save_request(folder / "request.json", make_request(with_initial_weights(RUN), "0" * 64))
    _play(folder, *FAMILIES[family])
    shutil.rmtree(folder)


def _play(folder: Path, commands: Sequence[str], heavy: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([commands, heavy])],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


SERVICES = (
    *(f"deploy.{name}" for name in ("coordination", "egress_filter.app", "gateway", "participation")),
    *("deploy.superlink", "deploy.supernode", "desk.serving", "desk.site"),
)
"""Modules of programs that run for months, or start with a site or a coordinator."""


def test_a_service_loads_no_torch() -> None:
    modules = ", ".join(f"cdtl_core.{name}" for name in SERVICES)
    code = f"import sys, {modules}\nprint(*(name for name in ('torch', *{TRAINS!r}) if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
