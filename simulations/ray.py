"""A federation through Flower's own simulation engine: `flwr run`, a SuperLink of our own, and Ray's worker processes.

For federations that outgrow one process. Everything that Flower starts lives in one process group and one scratch
folder; both are gone at the end, also when this process is killed: a keeper ends the group once our end of its pipe
closes. Left in the run directory: what server and sites write, and ``ray.log``.
"""

import json
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cdtl_core.apps import bundle_root
from cdtl_core.config import RunConfig
from cdtl_core.errors import FederationError
from cdtl_core.progress import report
from cdtl_core.settings import flatten, save_toml
from server.journal import Journal

__all__ = ["LOG_FILE", "run_with_ray"]

LOG_FILE = "ray.log"
_UP_S, _STOP_S, _COMMAND_S, _START_S = 60.0, 2.0, 120.0, 300.0
_LINK_OPTIONS = ["--insecure", "--simulation", "--isolation", "process", "--disable-runtime-dependency-installation"]
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": "local",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class _Flower:
    """How to speak to the SuperLink: the environment of `flwr`, and an empty folder to call it from."""

    env: Mapping[str, str]
    empty: Path

    def ask(self, *arguments: str) -> str:
        """What `flwr` prints, nothing if it hangs; its exit code means little, its JSON says whether it worked."""
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(  # noqa: S603
                ["flwr", *arguments],  # noqa: S607
                env=self.env, cwd=self.empty, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S,
            )  # fmt: skip
            return (done.stdout or done.stderr).decode(errors="replace")
        return ""


def run_with_ray(run: RunConfig, out: Path, homes: Sequence[Path]) -> None:
    """Play one federation: the server's files go to `out`, each site's into its home.

    Raises:
        FederationError: Flower can't start the run, or it fails; ``ray.log`` in `out` says why.
    """
    report(method=run.method)
    out = out.resolve()
    sites = _sites_folder(homes)
    with _scratch() as scratch, open(out / LOG_FILE, "ab", buffering=0) as log:
        settings, app = _stage(run, scratch)
        threads, resources = _resources(len(homes))
        folders = {"CDTL_RUN": out, "CDTL_SITES": sites, "FLWR_HOME": scratch / "flower", "RAY_TMPDIR": scratch}
        flower = _Flower(_environment({**folders, "OMP_NUM_THREADS": threads}), scratch / "empty")
        with _superlink(flower, scratch / "flower", log):
            run_id = _submit(flower, app, settings, resources, log)
            status = _wait(flower, run_id, run, Journal(out, run.method))
            log.write(flower.ask("log", run_id, "own", "--stream").encode())
    if not status.startswith("finished:completed"):
        raise FederationError(f"Flower's simulation of {run.method} ended as {status.rstrip('.')}: read {log.name}.")


def _sites_folder(homes: Sequence[Path]) -> Path:
    """The folder that holds the homes and no other: Flower knows a site only as a number, counted in it by name."""
    folder, expected = homes[0].resolve().parent, sorted(home.resolve() for home in homes)
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if found != expected:
        raise FederationError(f"{folder} holds {len(found)} folders for {len(homes)} sites: keep nothing else there.")
    return folder


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for all that Flower and Ray write; its name is short, since the names of Ray's sockets have a limit."""
    parent = "/tmp" if len(tempfile.gettempdir()) > 20 else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="cdtl-", dir=parent, ignore_cleanup_errors=True) as name:
        for folder in ("empty", "flower"):
            (Path(name) / folder).mkdir()
        yield Path(name)


def _stage(run: RunConfig, scratch: Path) -> tuple[Path, Path]:
    """Write the settings, and copy what Flower bundles: the same from a checkout and from an installed wheel."""
    if run.model.weights not in {"imagenet", "random"}:
        weights = str(Path(run.model.weights).expanduser().resolve())
        run = run.model_copy(update={"model": run.model.model_copy(update={"weights": weights})})
    save_toml(scratch / "settings.toml", flatten(run))
    root, app = bundle_root(), scratch / "app"
    core = Path(sys.modules["cdtl_core"].__path__[0])
    unwanted = shutil.ignore_patterns("bundle", "__pycache__")
    for source in (root / "server", root / "client", core):
        shutil.copytree(source, app / source.name, ignore=unwanted)
    shutil.copyfile(root / "pyproject.toml", app / "pyproject.toml")
    return scratch / "settings.toml", app


def _resources(sites: int) -> tuple[int, Mapping[str, object]]:
    """Threads per site and what Ray is told: as many sites at a time as there are cores, GPUs in equal shares."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers, gpus = min(cores, sites), torch.cuda.device_count()
    resources: dict[str, object] = {
        "num-supernodes": sites,
        "init-args-num-cpus": cores,
        "init-args-log-to-driver": "true",
        "client-resources-num-cpus": cores // workers,
        "client-resources-num-gpus": 1 / math.ceil(workers / gpus) if gpus else 0.0,
    }
    return min(cores // workers, torch.get_num_threads()), resources


def _environment(own: Mapping[str, object]) -> dict[str, str]:
    """Our environment for Flower's processes: this Python's programs first, and no proxy for our own machine."""
    before = os.environ.get
    path = os.pathsep.join([str(Path(sys.executable).parent), before("PATH", os.defpath)])
    direct = {name: f"127.0.0.1,{before(name, '')}" for name in ("NO_PROXY", "no_proxy")}
    return {**os.environ, **_QUIET, **direct, "PATH": path, **{name: str(value) for name, value in own.items()}}


@contextmanager
def _superlink(flower: _Flower, home: Path, log: IO[bytes]) -> Iterator[None]:
    """Run a SuperLink on a free loopback port with its executor, until the block ends or this process dies.

    The executor is started here, since a SuperLink would start it in a session of its own, beyond our reach.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    save_toml(home / "config.toml", {"superlink": {"default": "own", "own": {"address": address, "insecure": True}}})
    link = ["flower-superlink", *_LINK_OPTIONS, "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    executor = ["flower-superexec", "--insecure", "--runtime-api-address", address]
    script = "".join(f"{shlex.join(command)} &\n" for command in (link, executor))
    keeper = subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", f"{script}cat > /dev/null\nrm -rf {shlex.quote(str(home.parent))}\nkill -KILL 0"],
        env=flower.env, cwd=flower.empty, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        _await_health(address, log.name)
        yield
    finally:
        _kill(keeper)


def _await_health(address: str, log: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline:
        with suppress(OSError), direct.open(f"http://{address}/health", timeout=1):
            return
        time.sleep(0.1)
    raise FederationError(f"Flower's SuperLink did not start on {address} within {_UP_S:.0f} s: read {log}.")


def _kill(keeper: subprocess.Popen[bytes]) -> None:
    """End the keeper's whole group and see it gone."""
    deadline = time.monotonic() + _STOP_S
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.communicate()
        while time.monotonic() < deadline:
            os.killpg(keeper.pid, 0)
            time.sleep(0.02)


def _submit(flower: _Flower, app: Path, settings: Path, resources: Mapping[str, object], log: IO[bytes]) -> str:
    shares = " ".join(f"{key}={value}" for key, value in resources.items())
    config = ["--run-config", str(settings), "--federation-config", shares]
    answer = flower.ask("run", str(app), "own", *config, "--format", "json")
    log.write(f"{answer}\n".encode())
    run_id = _read(answer).get("run-id")
    if not run_id:
        raise FederationError(f"Flower did not take the run: read {log.name}.")
    return str(run_id)


def _wait(flower: _Flower, run_id: str, run: RunConfig, journal: Journal) -> str:
    """The run's last status. Flower is asked rarely, as a question costs a second of a core; the journal is free."""
    began, silent = time.monotonic(), 0
    limit = _START_S + (run.federation.rounds + 2) * run.federation.round_timeout_s
    while (elapsed := time.monotonic() - began) < limit and silent < 3:
        runs = _read(flower.ask("list", "own", "--run-id", run_id, "--format", "json")).get("runs")
        silent = 0 if runs else silent + 1
        if runs and str(runs[0]["status"]).startswith("finished"):
            return " ".join(filter(None, (runs[0]["status"], runs[0]["status-details"])))
        _pause(journal, min(max(2.0, elapsed / 10), 30.0))
    return "lost: its SuperLink does not answer" if silent else f"unfinished after {limit:.0f} s"


def _pause(journal: Journal, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if journal.finished():
            return


def _read(answer: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(answer)
        return value if isinstance(value, dict) else {}
    return {}
