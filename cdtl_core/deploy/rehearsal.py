"""Rehearsal: two rounds with the site's own images against a coordinator on this machine."""

import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdtl_core.config import ApprovalConfig, RunConfig, SiteConfig, TaskConfig
from cdtl_core.config.folders import SITE_FILE, RunFolder, SiteFolder
from cdtl_core.config.settings import load_site, save_toml
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.enrolling import enrol_site
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.runs import ENDED, RunState, load_run_state, prepare_run, queue_run
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.errors import FederationError
from cdtl_core.federation.journal import Journal, read_diary, read_journal
from cdtl_core.flower import flower_environment
from cdtl_core.system.processes import ProcessGroup, free_port

__all__ = ["rehearse_rounds"]

_ROUNDS = 2
_LIMIT_S = 1800.0
_LINKS = (10, 100)
"""Line speeds in Mbit/s for the estimated transfer times."""


def rehearse_rounds(home: Path, own: SiteConfig, task: TaskConfig) -> dict[str, Any]:
    """Train two rounds with the default settings and return the cost of a round; nothing else is kept.

    Args:
        home: The site's folder.
        own: The site's settings.
        task: The labels that the site enrolled with.

    Returns:
        Seconds per round, the site's peak memory, bytes up and down a round, the initial weights' bytes, seconds on
        the line; the
        site's own seconds per round and how many of them its own model takes; bytes that the run's models take on the
        disk, and how many of them are the own model's.

    Raises:
        FederationError: A round failed; the sentence names the log's last words.
    """
    with tempfile.TemporaryDirectory(prefix="cdtl-rehearsal-") as name:
        scratch = Path(name)
        coordinator, shadow, port = scratch / "coordinator", scratch / own.site, free_port()
        server = ServerConfig(names=("localhost", "127.0.0.1"), host="127.0.0.1", port=port)
        make_coordinator(coordinator, server)
        _shadow(home, own, shadow)
        config = RunConfig.model_validate(
            {"name": "rehearsal", "task": task, "federation": {"rounds": _ROUNDS}}  # the default method, cdtl
        )
        admit(coordinator, enrol_site(shadow, config))
        run, request, _ = prepare_run(coordinator, config)
        approve(shadow, request, load_site(shadow / SITE_FILE))
        queue_run(run)
        command = [sys.executable, "-m", "cdtl_core.cli.main"]
        ca = str(coordinator / "tls" / "ca.crt")
        group = ProcessGroup(flower_environment({}), scratch, farewell=f"rm -rf {shlex.quote(name)}")
        try:
            group.start("coordinator", [*command, "server", "start", str(coordinator)], scratch / "coordinator.log")
            site = [*command, "site", "start", str(shadow), "--server", f"localhost:{port}", "--ca", ca]
            group.start("site", site, scratch / "site.log")
            memory = _watch(group, run, scratch)
            (journal,) = read_journal(RunFolder(run).journal)
            own_model = _of_own_model(shadow)  # before the last program removes the folder
        finally:
            group.stop(patience_s=20.0)
        return _estimates(journal, own.site, memory) | own_model


def _shadow(home: Path, own: SiteConfig, shadow: Path) -> None:
    """Make a second site folder with the same images and decoded pixels, and its own keys."""
    shadow.mkdir()
    data = own.data.model_copy(update={"root": own.data.root.expanduser().absolute()})
    any_start = own.publish.model_copy(update={"initial_weights_hash": None})
    free = {"lock": {}, "approval": ApprovalConfig(), "publish": any_start}  # a rehearsal needs no signature
    settings = own.model_copy(update={"data": data, **free})
    save_toml(shadow / SITE_FILE, settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
    if (cache := SiteFolder(home).cache).exists():
        SiteFolder(shadow).cache.symlink_to(cache.absolute())


def _watch(group: ProcessGroup, run: Path, scratch: Path) -> int:
    """Wait until the run has ended well; return the most bytes that the site's processes held at once."""
    deadline, most = time.monotonic() + _LIMIT_S, 0
    while time.monotonic() < deadline:
        state = load_run_state(run) or RunState()
        if state.status == "completed":
            return most
        if state.status in ENDED:
            raise FederationError(f"the rehearsal ended as {state.status}: {state.reason}")
        if ended := group.ended():
            who = next(iter(ended))
            raise FederationError(f"the rehearsal's {who} ended: {_last_line(scratch / f'{who}.log')}")
        most = max(most, _memory(group.pids()["site"]))
        time.sleep(0.2)
    raise FederationError(f"the rehearsal took longer than {_LIMIT_S:.0f} s: use a faster machine or fewer images.")


def _memory(pid: int) -> int:
    import psutil

    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            found = process.memory_full_info()
            total += getattr(
                found, "pss", found.uss
            )  # shared pages once if the system reports them, else only its own pages
        except psutil.Error:
            continue
    return total


def _estimates(journal: Journal, site: str, memory: int) -> dict[str, Any]:
    first: Mapping[str, Any] = journal.rounds[0].sites[site]
    last: Mapping[str, Any] = journal.rounds[-1].sites[site]
    up, down = last["bytes_sent"], last["bytes_received"]
    return {
        "seconds_per_round": journal.rounds[-1].seconds,
        "peak_memory_bytes": memory,
        "bytes_up_per_round": up,
        "bytes_down_per_round": down,
        "initial_weights_bytes_once": first.get("initial_weights_bytes", 0),
        "link_seconds_per_round": {f"{speed} Mbit/s": round((up + down) * 8 / speed / 1e6, 1) for speed in _LINKS},
    }


def _of_own_model(shadow: Path) -> dict[str, Any]:
    """Return the cost of the site's own model in the last round, as the site recorded it."""
    ((_, diary),) = SiteFolder(shadow).diaries()
    last = read_diary(diary, "cdtl", shadow.name).rounds[-1]
    files = [path for name in ("memory", "models") for path in (shadow / name).rglob("*.safetensors")]
    return {
        "site_seconds_per_round": last.seconds,
        "own_seconds_per_round": last.sites[shadow.name]["own_seconds"],
        "disk_bytes": sum(path.stat().st_size for path in files),
        "own_disk_bytes": sum(path.stat().st_size for path in files if path.name.startswith("own")),
    }


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
