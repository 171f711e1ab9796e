"""A federation through Flower's own simulation engine: `flwr run`, our own SuperLink, and Ray's worker processes.

It is for federations that need more than one process. Everything that Flower starts is in one process group and one
scratch folder. Both are removed at the end, also if this process is killed: a keeper ends the group once our end of its
pipe closes. The run directory keeps the files of server and sites, and ``ray.log``.
"""

import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cdtl_core.config import NAMED_WEIGHTS, RunConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import flatten, save_toml
from cdtl_core.errors import FederationError
from cdtl_core.federation.journal import JournalFile
from cdtl_core.flower import CONNECTION, Flower, await_health, flower_environment, stage_app
from cdtl_core.system.plugins import plugin_packages
from cdtl_core.system.processes import ProcessGroup, free_port
from cdtl_core.system.progress import report

__all__ = ["LOG_FILE", "run_with_ray"]

LOG_FILE = "ray.log"
_UP_S, _START_S = 60.0, 300.0
_LINK_OPTIONS = ["--insecure", "--simulation", "--isolation", "process", "--disable-runtime-dependency-installation"]
_RAY = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": "local",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
}


def run_with_ray(run: RunConfig, out: Path, homes: Sequence[Path]) -> None:
    """Run one federation: the server's files go to `out`, each site's into its home.

    Args:
        run: The run's settings.
        out: The server's folder.
        homes: The sites' folders.

    Raises:
        FederationError: Flower can't start the run, or it fails; ``ray.log`` in `out` says why.
    """
    report(method=run.method)
    out = out.resolve()
    sites = _sites_folder(homes)
    log = out / LOG_FILE
    with _scratch() as scratch:
        settings, app = _stage(run, scratch)
        threads, resources = _resources(len(homes))
        folders = {"CDTL_RUN": out, "CDTL_SITES": sites, "FLWR_HOME": scratch / "flower", "RAY_TMPDIR": scratch}
        environment = flower_environment({**_RAY, **folders, "OMP_NUM_THREADS": threads})
        with _superlink(Flower(environment, scratch / "empty"), scratch / "flower", log) as flower:
            run_id = _submit(flower, app, settings, resources, log)
            status = _wait(flower, run_id, run, JournalFile(RunFolder(out).journal, run.method))
            _write(log, flower.ask("log", run_id, CONNECTION, "--stream"))
    if not status.startswith("finished:completed"):
        raise FederationError(f"Flower's simulation of {run.method} ended as {status.rstrip('.')}: read {log}.")


def _sites_folder(homes: Sequence[Path]) -> Path:
    """Return the folder that holds exactly the homes: Flower knows a site only by its number in order of names."""
    folder, expected = homes[0].resolve().parent, sorted(home.resolve() for home in homes)
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if found != expected:
        raise FederationError(
            f"{folder} holds {len(found)} folders for {len(homes)} sites: move everything else out of it."
        )
    return folder


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder for Flower and Ray; its path is short, since the paths of Ray's sockets have a limit."""
    parent = "/tmp" if len(tempfile.gettempdir()) > 20 else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="cdtl-", dir=parent, ignore_cleanup_errors=True) as name:
        for folder in ("empty", "flower"):
            (Path(name) / folder).mkdir()
        yield Path(name)


def _stage(run: RunConfig, scratch: Path) -> tuple[Path, Path]:
    """Write the settings, and copy Flower's bundle: the same from a checkout and from an installed wheel."""
    if run.model.weights not in NAMED_WEIGHTS:
        weights = str(Path(run.model.weights).expanduser().resolve())
        run = run.model_copy(update={"model": run.model.model_copy(update={"weights": weights})})
    save_toml(scratch / "settings.toml", flatten(run))
    stage_app(scratch / "app", plugin_packages())
    return scratch / "settings.toml", scratch / "app"


def _resources(sites: int) -> tuple[int, Mapping[str, object]]:
    """Return threads per site and Ray's settings: as many sites at a time as cores, GPUs in equal shares."""
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


@contextmanager
def _superlink(flower: Flower, home: Path, log: Path) -> Iterator[Flower]:
    """Run a SuperLink on a free loopback port with its executor, until the block ends or this process dies.

    The executor is started here, since a SuperLink would start it in a separate session that we could not end.
    """
    port = free_port()
    address = f"127.0.0.1:{port}"
    connection = {"default": CONNECTION, CONNECTION: {"address": address, "insecure": True}}
    save_toml(home / "config.toml", {"superlink": connection})
    group = ProcessGroup(flower.env, flower.empty, farewell=f"rm -rf {shlex.quote(str(home.parent))}")
    try:
        link = ["flower-superlink", *_LINK_OPTIONS, "--host", "127.0.0.1", "--port", str(port)]
        group.start("superlink", link, log)
        group.start("executor", ["flower-superexec", "--insecure", "--runtime-api-address", address], log)
        await_health(f"http://{address}", timeout_s=_UP_S, log=log, alive=lambda: not group.ended())
        yield replace(flower, group=group.number)
    finally:
        group.kill()


def _submit(flower: Flower, app: Path, settings: Path, resources: Mapping[str, object], log: Path) -> str:
    shares = " ".join(f"{key}={value}" for key, value in resources.items())
    run_id, answer = flower.submit(app, settings, "--federation-config", shares)
    _write(log, answer)
    if not run_id:
        raise FederationError(f"Flower did not take the run: read {log}.")
    return run_id


def _wait(flower: Flower, run_id: str, run: RunConfig, journal: JournalFile) -> str:
    """Return the run's last status. Flower is asked rarely, since a question costs a second of a core."""
    began, silent = time.monotonic(), 0
    limit = _START_S + (run.federation.rounds + 2) * run.federation.round_timeout_s
    while (elapsed := time.monotonic() - began) < limit and silent < 3:
        status = flower.status(run_id)
        silent = 0 if status else silent + 1
        if status.startswith("finished"):
            return status
        _pause(journal, min(max(2.0, elapsed / 10), 30.0))
    return "lost: its SuperLink does not answer" if silent else f"unfinished after {limit:.0f} s"


def _pause(journal: JournalFile, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if journal.finished():
            return


def _write(log: Path, text: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(text + "\n")
