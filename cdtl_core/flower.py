"""Starts and queries Flower's own programs, with this Python and without a proxy to this machine."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from cdtl_core.errors import FederationError
from cdtl_core.system.plugins import plugins_of_package, sources_of
from cdtl_core.system.shipped import bundle_root

__all__ = ["CONNECTION", "TASK_POLL", "Flower", "await_health", "flower_environment", "stage_app"]

CONNECTION = "own"
"""Name under which Flower's programs find the SuperLink."""
TASK_POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
"""Variable with the seconds between two looks of Flower's executor for an app to start."""
_COMMAND_S = 120.0
_PROJECT = ("name", "version", "description", "license", "requires-python", "dependencies")
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    TASK_POLL: "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Flower:
    """Access to a SuperLink: `flwr`'s environment, an empty folder to call it from, and its process group."""

    env: Mapping[str, str]
    empty: Path
    group: int | None = None

    def ask(self, *arguments: str) -> str:
        """Return the output of `flwr`, empty if it hangs. Its exit code means little; its JSON reports success."""
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(  # noqa: S603
                ["flwr", *arguments],  # noqa: S607
                env=dict(self.env), cwd=self.empty, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S,
                process_group=self.group,
            )  # fmt: skip
            return (done.stdout or done.stderr).decode(errors="replace")
        return ""

    def read(self, *arguments: str) -> dict[str, Any]:
        """Return the JSON answer of `flwr`; empty for any other output."""
        return _read(self.ask(*arguments, "--format", "json"))

    def submit(self, app: Path, settings: Path, *options: str) -> tuple[str, str]:
        """Start a run of an app folder; return its number, empty if Flower refused it, and Flower's output."""
        answer = self.ask("run", str(app), CONNECTION, "--run-config", str(settings), *options, "--format", "json")
        return str(_read(answer).get("run-id") or ""), answer

    def status(self, run_id: str) -> str:
        """Return a run's status with details, e.g. ``finished:completed``; empty if the SuperLink does not answer."""
        runs = self.read("list", CONNECTION, "--run-id", run_id).get("runs")
        return " ".join(filter(None, (runs[0]["status"], runs[0]["status-details"]))) if runs else ""


def flower_environment(own: Mapping[str, object]) -> dict[str, str]:
    """Return our environment for Flower's programs: this Python's programs first, and no proxy to our own machine."""
    before = os.environ.get
    path = os.pathsep.join([str(Path(sys.executable).parent), before("PATH", os.defpath)])
    direct = {name: f"127.0.0.1,localhost,{before(name, '')}" for name in ("NO_PROXY", "no_proxy")}
    return {**os.environ, **_QUIET, **direct, "PATH": path, **{name: str(value) for name, value in own.items()}}


def stage_app(app: Path, packages: Iterable[str] = ()) -> None:
    """Copy Flower's bundle to `app`: the same files from a checkout and from an installed wheel.

    Only the part of pyproject.toml that Flower reads is copied: settings of a linter are not part of an approval.

    Args:
        app: An empty folder.
        packages: Installed packages whose plugins the bundle carries; their Python source is copied too.

    Raises:
        ConfigError: A package cannot travel.
    """
    root, core = bundle_root(), Path(sys.modules["cdtl_core"].__path__[0])
    unwanted = shutil.ignore_patterns("bundle", "__pycache__")
    for source in (root / "server", root / "client", core):
        shutil.copytree(source, app / source.name, ignore=unwanted)
    shutil.copyfile(root / "LICENSE", app / "LICENSE")
    whole = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = {name: whole["project"][name] for name in _PROJECT}
    carried = [vars(plugin) for package in packages for plugin in plugins_of_package(package)]
    read = {"project": project, "tool": {"flwr": whole["tool"]["flwr"], "cdtl": {"plugins": carried}}}
    for name, source in (pair for package in packages for pair in sources_of(package).items()):
        target = app / source.name
        shutil.copytree(source, target, ignore=unwanted) if source.is_dir() else shutil.copyfile(source, target)
        read["tool"]["flwr"]["app"]["fab-include"].append(f"{name}/**/*.py" if source.is_dir() else source.name)
    (app / "pyproject.toml").write_text(tomli_w.dumps(read), encoding="utf-8")


def await_health(
    url: str, *, timeout_s: float, log: Path | str, ca: Path | None = None, alive: Callable[[], bool] = lambda: True
) -> None:
    """Wait until a server answers on ``URL/health``.

    Args:
        url: Address of the server.
        timeout_s: Longest wait.
        log: Its log, for the error.
        ca: The authority of its certificate, if it uses TLS.
        alive: Whether its process runs.

    Raises:
        FederationError: It ended, or did not answer in time.
    """
    context = ssl.create_default_context(cafile=ca) if ca else None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    direct, deadline = urllib.request.build_opener(*handlers), time.monotonic() + timeout_s
    while time.monotonic() < deadline and alive():
        with suppress(OSError), direct.open(f"{url}/health", timeout=1):
            return
        time.sleep(0.1)
    raise FederationError(f"nothing answered on {url} within {timeout_s:.0f} s: read {log}.")


def _read(answer: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(answer)
        return value if isinstance(value, dict) else {}
    return {}
