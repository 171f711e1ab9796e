"""A package's code between hospitals: the bundle carries it, the site approves it, and nothing else is known there."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.bundle import build_bundle, bundle_sha256
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.preparing import prepare_run
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.errors import ConfigError
from cdtl_core.system import plugins as plugin_room
from tests.conftest import Cdtl
from tests.deploy.deployment import Deployment
from tests.first_hour.conftest import CODE, POINTS, Install

pytestmark = pytest.mark.integration
RUN: dict[str, Any] = {
    "name": "study", "image": {"size": 32}, "model": {"backbone": "small_net", "weights": "random"},
    "train": {"steps": 1, "batch_size": 4, "loss": "halved", "augment": {"transforms": ["speckle"]}},
    "federation": {"rounds": 1, "join_timeout_s": 300.0, "round_timeout_s": 200.0}, "blend": {"policy": "size"},
}  # fmt: skip
PLAIN = {**RUN, "model": {"backbone": "test_efficientnet", "weights": "random"}, "train": {"steps": 1, "batch_size": 4}}


@pytest.fixture
def coordinator(tmp_path: Path, install: Install) -> Path:
    """A coordinator that has admitted north and a site with a modality of the package."""
    install("my-plugin", POINTS, CODE)
    folder = tmp_path / "coordinator"
    make_coordinator(folder, ServerConfig(names=("localhost",), host="127.0.0.1", port=1))
    for site, modality in (("north", "ultrasound"), ("south", "mri")):
        tree = {"site": site, "modality": modality, "data": {"phantom": {"patients": 12}}}
        make_site(tmp_path / site, SiteConfig.model_validate(tree))
        admit(folder, enrol_site(tmp_path / site, RunConfig.model_validate(PLAIN)))
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": {}}, "the backbone 'small_net' of the package my-plugin 1.0 is not in the bundle"),
        ({"model": PLAIN["model"]}, "the loss 'halved' of the package my-plugin 1.0 is not in the bundle"),
        ({"model": PLAIN["model"], "train": {"loss": "x"}}, "the loss 'x' is neither of cdtl nor of a package"),
        ({"plugins": ["other-plugin"]}, "the run carries the package other-plugin, which is not installed here"),
    ],
)
def test_a_run_whose_bundle_lacks_what_it_needs_is_refused_before_anyone_is_asked(
    coordinator: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=r"a site runs only the code|other-plugin") as refused:
        prepare_run(coordinator, RunConfig.model_validate({**RUN, **change}))
    assert says in str(refused.value)
    assert not list((coordinator / "runs").glob("*"))


def test_the_site_approves_what_it_has_installed_and_refuses_what_it_has_not(
    cdtl: Cdtl, coordinator: Path, tmp_path: Path, install: Install
) -> None:
    run, request, _ = prepare_run(coordinator, RunConfig.model_validate({**RUN, "plugins": ["My_Plugin"]}))
    assert request.settings["plugins"] == '["My_Plugin"]'
    done = cdtl("site", "approve", "north", run / "request.json", "--yes")
    assert done.code == 0, done.err
    assert done.err.startswith("Building the initial weights to list the tensors that may leave"), "the slow part"
    assert 'plugins = ["My_Plugin"]' in done.out
    assert "The bundle also holds code of others: My_Plugin" in done.out
    assert "The code is the same as the cdtl, My_Plugin installed here, byte for byte." in done.out
    code = tmp_path / "site-packages" / "my_plugin" / "__init__.py"
    code.write_text(CODE + "\n# another version\n")
    assert "NOT that of" in cdtl("site", "approve", "south", run / "request.json", "--yes").out
    (tmp_path / "site-packages" / "my_plugin-1.0.dist-info" / "entry_points.txt").write_text("")
    plugin_room._declared.cache_clear()
    done = cdtl("site", "approve", "south", run / "request.json", "--yes")
    assert done.code == 3
    assert "the run carries the package My_Plugin, which is not installed here or brings no plugin" in done.err


ASK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import cdtl_core
assert Path(cdtl_core.__file__).is_relative_to(sys.argv[1])
from cdtl_core.errors import CdtlError
from cdtl_core.models.backbones import build_backbone
from cdtl_core.system.plugins import plugins
print([one.name for one in plugins("losses")])
try:
    module = build_backbone("small_net", 32).module
    print(sys.modules[type(module).__module__].__file__)
except CdtlError as error:
    print(error)
"""


@pytest.mark.attack("code not approved here is never run here", "a package at the site that the bundle does not carry")
def test_code_of_a_bundle_knows_the_plugins_that_it_carries_and_no_others(tmp_path: Path, install: Install) -> None:
    """Whether they are installed at the site or not: what runs there is what was approved."""
    packages = install("my-plugin", POINTS, CODE)
    plain, with_it = build_bundle(tmp_path / "plain-app"), build_bundle(tmp_path / "app", ["my-plugin"])
    assert bundle_sha256(packages=["my-plugin"]) == bundle_sha256(with_it) != bundle_sha256(plain)
    for name, bundle in (("plain", plain), ("whole", with_it)):
        with zipfile.ZipFile(io.BytesIO(bundle)) as found:
            found.extractall(tmp_path / name)

    def ask(folder: str, path: Path | None) -> list[str]:
        env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
        command = [sys.executable, "-P", "-c", ASK, str(tmp_path / folder)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    known, where = ask("whole", None)
    assert (known, Path(where)) == ("['halved']", tmp_path / "whole" / "my_plugin" / "__init__.py")
    known, refused = ask("plain", packages)
    assert (known, "the backbone 'small_net' is unknown" in refused) == ("[]", True)


def test_a_package_that_cannot_travel_is_refused(tmp_path: Path, install: Install) -> None:
    install("odd-plugin", {"losses": {"odd": "cdtl_core.errors:CdtlError"}}, "")
    with pytest.raises(ConfigError, match="the module cdtl_core of the package odd-plugin cannot travel"):
        build_bundle(tmp_path / "app", ["odd-plugin"])


@pytest.mark.slow
@pytest.mark.ci
def test_a_deployed_run_trains_with_code_of_a_package(tmp_path: Path, install: Install) -> None:
    """Processes of their own find the package by PYTHONPATH; what trains is the bundle's copy."""
    install("my-plugin", POINTS, CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site-packages"))
        data = {"phantom": {"patients": 12}}
        sites = [SiteConfig.model_validate({"site": "north", "modality": "ultrasound", "data": data})]
        deployment = Deployment(tmp_path, sites, RunConfig.model_validate(PLAIN))
        try:
            run = deployment.request(RunConfig.model_validate({**RUN, "plugins": ["my-plugin"]}))
            deployment.approve(run)
            (tmp_path / "site-packages" / "my_plugin" / "__init__.py").write_text("raise ImportError('not approved')")
            deployment.start_all()
            deployment.play(run)
            assert deployment.ended(run) == "completed", deployment.story()
            deployment.stop()
        finally:
            deployment.end()
    note = json.loads((deployment.homes["north"] / "models" / "study-cdtl" / "model.json").read_text())
    assert note["backbone"] == "small_net"
