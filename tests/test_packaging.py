"""What is shipped: the wheel and the Flower bundle; the containers are in test_docker.py."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cdtl_core.apps import bundle_root

ROOT = bundle_root()


def test_no_file_names_a_path_of_some_machine() -> None:
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|home/(?!cdtl))[/A-Za-z0-9_]")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = [
        name
        for name in tracked
        if name != "tests/test_packaging.py" and not name.endswith(".png") and pattern.search((ROOT / name).read_text())
    ]
    assert named == []


@pytest.mark.slow
@pytest.mark.ci
def test_an_installed_wheel_runs_without_the_checkout_and_adds_only_cdtl_core(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "dist", ROOT],
        check=True,
        timeout=300,
    )
    wheel = next((tmp_path / "dist").glob("*.whl"))
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cdtl_core"}
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel], check=True
    )
    settings = ["image.size=32", "model.backbone=test_efficientnet", "model.weights=random", "train.steps=1"]
    settings += ["federation.rounds=3", "methods=cdtl"]
    arguments = ["cdtl", "simulate", "demo", *(word for setting in settings for word in ("--set", setting))]
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv = {arguments!r}\n"
        "from cdtl_core.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stdout
    assert (tmp_path / "runs" / "demo" / "sites" / "north" / "model.json").exists()
