"""The wheel and the Flower bundle; test_docker.py tests the containers."""

import io
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.cli.build import build_fab_from_disk
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import cdtl_core
from cdtl_core.deploy.bundle import build_bundle
from cdtl_core.system.shipped import bundle_root
from tests.closure import DATA, closure

ROOT = bundle_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.integration
def test_no_file_names_a_path_of_some_machine() -> None:
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|home/(?!cdtl))[/A-Za-z0-9_]")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = [
        name
        for name in tracked
        if name != "tests/test_packaging.py" and not name.endswith(".png") and pattern.search((ROOT / name).read_text())
    ]
    assert named == []


def test_the_version_stands_in_one_place_and_what_cannot_read_it_agrees() -> None:
    version = PROJECT["project"]["version"]
    assert cdtl_core.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest in {"Unreleased", version}


def pinned(name: str) -> dict[str, Version]:
    """The versions of a lock file; every entry has one, and hashes; the file names no registry."""
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert all(re.match(r"[a-z0-9._-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)
    found = {name: Version(number) for name, number in re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)}
    assert len(found) == len(entries)
    return found


def not_met(needed: list[str], versions: dict[str, Version]) -> list[str]:
    return [line for line in needed if versions.get((one := Requirement(line)).name, Version("0")) not in one.specifier]


def test_the_lock_files_pin_every_dependency_by_hash_and_name_no_registry() -> None:
    project = PROJECT["project"]
    extras = (line for name in ("nifti", "onnx", "slides") for line in project["optional-dependencies"][name])
    needed = [*project["dependencies"], *extras]
    assert not_met(needed, pinned("requirements.lock")) == []
    assert len(pinned("requirements.lock")) > 100
    groups = PROJECT["dependency-groups"]
    assert not_met([*groups["tools"], *PROJECT["build-system"]["requires"]], pinned("tools.lock")) == []
    assert not_met(groups["docs"], pinned("docs.lock")) == []


@pytest.mark.attack("what is released is what was tested", "another version in requirements.lock than in the tests")
def test_the_lock_file_holds_the_versions_that_the_tests_run_on(tries: Any) -> None:
    if (sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"):
        pytest.skip("requirements.lock is for Python 3.11 on Linux x86-64")
    locked = pinned("requirements.lock")
    installed = {canonicalize_name(one.name): Version(one.version) for one in distributions()}
    tries.add(len(locked))
    differ = {
        name: (str(version), str(installed.get(name)))  # type: ignore[call-overload]
        for name, version in locked.items()
        if installed.get(name) != version  # type: ignore[call-overload]
    }
    assert differ == {}, (
        "make lock writes the installed versions into the file; pip install -r requirements.lock the other way"
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the wheel of this checkout is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder / "dist", ROOT], check=True, timeout=300)
    wheel = next((folder / "dist").glob("*.whl"))
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder


def run_installed(installed: Path, folder: Path, code: str, *arguments: str) -> str:
    """Return the output of Python code in `folder`, where the checkout cannot be imported."""
    before = (
        f"import sys; sys.path[:] = [{str(installed / 'site')!r}, *(p for p in sys.path if p != {str(ROOT)!r})]\n"
        f"sys.argv = {['example', *arguments]!r}\n"
    )
    command = [sys.executable, "-P", "-c", before + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ci
def test_the_wheel_adds_only_cdtl_core_with_its_types_and_no_benchmarks(installed: Path) -> None:
    names = zipfile.ZipFile(next((installed / "dist").glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"cdtl_core"}
    assert {"cdtl_core/py.typed", "cdtl_core/bundle/client/app.py", "cdtl_core/bundle/configs/demo.toml"} <= set(names)
    assert not [name for name in names if "simulations" in name or "tests/" in name]


@pytest.mark.slow
@pytest.mark.ci
def test_an_installed_wheel_is_a_library_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import time; began = time.process_time(); import cdtl_core; spent = time.process_time() - began\n"
        "assert spent < 0.1 and 'torch' not in sys.modules and 'flwr' not in sys.modules, spent\n"
        f"assert not cdtl_core.__file__.startswith({str(ROOT)!r}); print(cdtl_core.__version__)"
    )
    assert run_installed(installed, tmp_path, code).strip() == PROJECT["project"]["version"]
    quickstart = (ROOT / "examples" / "quickstart.py").read_text().replace('"patients": 60', '"patients": 30')
    assert "the " in run_installed(installed, tmp_path, quickstart, str(tmp_path / "quick"))
    small = ["image.size=32", "model.backbone=test_efficientnet", "model.weights=random", "train.steps=1"]
    words = ["simulate", "demo", *(word for one in (*small, "federation.rounds=2") for word in ("--set", one))]
    told = run_installed(installed, tmp_path, "from cdtl_core.cli.main import main; main()", *words)
    assert "SYNTHETIC" in told
    assert (tmp_path / "runs" / "demo" / "sites" / "north" / "model.json").exists()


@pytest.mark.integration
@pytest.mark.parametrize("module", ["coordination", "front", "gateway", "egress_filter.__main__", "node_main"])
def test_a_process_of_an_installed_wheel_starts_without_the_apps_on_its_path(module: str) -> None:
    """In a checkout `client` and `server` are always found; a wheel keeps them in its bundle, and adds them later."""
    hidden = "for name in ('client', 'server'): sys.modules[name] = None"
    code = f"import sys\n{hidden}\nimport cdtl_core.deploy.{module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def release(folder: Path, umask: int) -> dict[str, bytes]:
    """Return the output of `make release` in a fresh clone with times and permissions of another machine."""
    clone, dist = folder / "clone", folder / "dist"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, clone], check=True, umask=umask)
    for number, path in enumerate(sorted(clone.rglob("*.py"))):
        os.utime(path, (umask + number, umask + number))
    words = [f"PYTHON={sys.executable}", f"TOOLS={folder.parent / 'tools'}", f"DIST={dist}"]
    done = subprocess.run(["make", "release", *words], cwd=clone, capture_output=True, text=True, umask=umask)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=dist, check=True)
    return {path.name: path.read_bytes() for path in dist.iterdir()}


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.attack(
    "the same commit gives the same release", "other times and rights of the files, an uncommitted change"
)
def test_a_release_is_of_a_commit_and_has_the_same_bytes_wherever_it_is_made(tmp_path: Path, tries: Any) -> None:
    one, other = (release(tmp_path / str(umask), umask) for umask in (0o022, 0o077))
    tries.add(len(one))
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []
    version = PROJECT["project"]["version"]
    made = {f"cdtl-{version}-py3-none-any.whl", f"cdtl-{version}.tar.gz", "sbom.cdx.json", "sbom-cpu.cdx.json"}
    assert set(one) == made | {"requirements.lock", "cpu_torch.py", "SHA256SUMS"}
    assert set(one["SHA256SUMS"].decode().split()[1::2]) == set(one) - {"SHA256SUMS"}
    sbom = json.loads(one["sbom.cdx.json"])
    assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "cdtl")
    assert {canonicalize_name(part["name"]): Version(part["version"]) for part in sbom["components"]} == pinned(
        "requirements.lock"
    )
    assert all(part["externalReferences"][0]["hashes"] for part in sbom["components"])
    (tmp_path / str(0o022) / "clone" / "README.md").write_text("changed")
    refused = subprocess.run(["make", "release"], cwd=tmp_path / str(0o022) / "clone", capture_output=True, text=True)
    assert refused.returncode != 0
    assert "commit or remove first" in refused.stderr


def files_of(bundle: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as found:
        return set(found.namelist())


def test_the_bundle_holds_the_import_closure_of_both_apps_and_nothing_else(tmp_path: Path) -> None:
    found = files_of(build_bundle(tmp_path / "app")) - {"pyproject.toml", ".info/CONTENT"}
    assert found == closure() | set(DATA), "python -m tests.closure writes fab-include"


def test_only_what_sites_and_coordinators_run_changes_the_hash_that_hospitals_approve(tmp_path: Path) -> None:
    app = tmp_path / "app"
    before = build_bundle(app)

    def edited(name: str) -> bool:
        path, text = app / name, (app / name).read_text()
        path.write_text(f"{text}\n# edited\n")
        differs = bytes(build_fab_from_disk(app)) != before
        path.write_text(text)
        return differs

    assert not edited("cdtl_core/report/charts/figure.py")
    assert not edited("cdtl_core/cli/main.py")
    assert edited("cdtl_core/federation/round.py")
    assert edited("cdtl_core/results/templates/card.md")
    settings = tomllib.loads((app / "pyproject.toml").read_text())
    assert (settings["project"]["version"], list(settings["tool"])) == (PROJECT["project"]["version"], ["flwr", "cdtl"])


PLAY = """
import importlib.util
import sys
from pathlib import Path

bundle, root, out = map(Path, sys.argv[1:])
sys.path[:0] = [str(bundle)]
import cdtl_core

assert Path(cdtl_core.__file__).is_relative_to(bundle), cdtl_core.__file__
from cdtl_core.config import RunConfig
from cdtl_core.config.settings import flatten
from client.app import app as client_app
from server.app import app as server_app

# The grid that stands for Flower's is not in a bundle: this one file comes from the checkout, and nothing else.
spec = importlib.util.spec_from_file_location("inprocess", root / "cdtl_core" / "simulation" / "inprocess.py")
inprocess = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inprocess)

homes = []
for number, (site, modality) in enumerate({"alba": "ultrasound", "como": "histology"}.items()):
    homes.append(out / "sites" / site)
    homes[-1].mkdir(parents=True)
    text = f'site = "{site}"\\nmodality = "{modality}"\\ndata.phantom = {{ patients = 12, seed = {number} }}\\n'
    (homes[-1] / "site.toml").write_text(text)
model = {"backbone": "test_efficientnet", "weights": "random"}
settings = {"name": "tiny", "image": {"size": 32}, "model": model, "train": {"steps": 1, "batch_size": 4}}
run = RunConfig.model_validate({**settings, "federation": {"rounds": 2, "min_sites": 2}, "blend": {"settle": 1}})
inprocess.run_in_process(server_app, client_app, folder=out, homes=homes, settings=flatten(run))
"""


@pytest.mark.slow
@pytest.mark.ci
def test_the_bundle_that_sites_approve_plays_a_run_by_itself(tmp_path: Path) -> None:
    """What hospitals run is the bundle, not this checkout: whatever a site needs must be in it."""
    bundle = build_bundle(tmp_path / "app")
    with zipfile.ZipFile(io.BytesIO(bundle)) as found:
        found.extractall(tmp_path / "bundle")
    command = [sys.executable, "-P", "-c", PLAY, tmp_path / "bundle", ROOT, tmp_path / "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stdout + done.stderr
    for site in ("alba", "como"):
        assert (
            "# Model card" in (tmp_path / "out" / "sites" / site / "models" / "tiny-cdtl" / "model_card.md").read_text()
        )
