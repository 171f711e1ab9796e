"""Rehearsal: two rounds with the site's own images against a coordinator on this machine."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdtl_core.config import ApprovalConfig, RunConfig, SiteConfig, TaskConfig
from cdtl_core.config.folders import SITE_FILE, RunFolder, SiteFolder
from cdtl_core.config.settings import load_site, save_toml
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.local import LocalFederation, await_end
from cdtl_core.deploy.preparing import prepare_run
from cdtl_core.deploy.runs import queue_run
from cdtl_core.errors import FederationError
from cdtl_core.federation.journal import Journal, Round, read_diary, read_entries, read_journal
from cdtl_core.system.foreign import read_json
from cdtl_core.system.processes import ProcessGroup
from cdtl_core.system.scratch import scratch_folder

__all__ = ["rehearse_rounds"]

_ROUNDS = 2
_LIMIT_S = 1800.0
_SAY_EVERY_S = 15.0
_LINKS = (10, 100)
"""Line speeds in Mbit/s for the estimated transfer times."""


def rehearse_rounds(
    home: Path, own: SiteConfig, task: TaskConfig, *, tell: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Train two rounds with the default settings and return the cost of a round; nothing else is kept.

    Args:
        home: The site's folder.
        own: The site's settings.
        task: The labels that the site enrolled with.
        tell: Called with each step.

    Returns:
        Seconds per round, the site's peak memory, bytes up and down a round, the initial weights' bytes, seconds on
        the line; the
        site's own seconds per round and how many of them its own model takes; bytes that the run's models take on the
        disk, and how many of them are the own model's.

    Raises:
        FederationError: A round failed; the sentence names the log's last words.
    """
    with scratch_folder("rehearsal-") as scratch:
        local, shadow = LocalFederation(scratch), scratch / own.site
        _shadow(home, own, shadow)
        config = RunConfig.model_validate(
            {"name": "rehearsal", "task": task, "federation": {"rounds": _ROUNDS}}  # the default method, cdtl
        )
        local.admit(shadow, config)
        run, request, _ = prepare_run(local.coordinator, config)
        approve(shadow, request, load_site(shadow / SITE_FILE))
        queue_run(run)
        with local.running(scratch, scratch) as group:
            memory = _watch(group, run, scratch, own.site, tell)
            (journal,) = read_journal(RunFolder(run).journal)
            own_model = _of_own_model(shadow)  # before the last program removes the folder
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


def _watch(group: ProcessGroup, run: Path, logs: Path, site: str, tell: Callable[[str], object]) -> int:
    """Wait until the run has ended well; return the most bytes that the site's processes held at once.

    Args:
        group: Coordinator and site.
        run: The run's folder.
        logs: Folder of their logs.
        site: The site's name.
        tell: Called with each step.
    """
    most, steps = 0, _Steps(tell)

    def look() -> None:
        nonlocal most
        most = max(most, _memory(group.pids()[site]))
        steps.say(_step(run))

    state = await_end(group, run, logs, look=look, limit_s=_LIMIT_S)
    if state.status != "completed":
        raise FederationError(f"the rehearsal ended as {state.status}: {state.reason}")
    return most


class _Steps:
    """Tells each step when it begins, and from time to time how long it has taken so far."""

    def __init__(self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock, self._began = tell, clock, clock()
        self._said, self._said_at = "", self._began

    def say(self, step: str) -> None:
        """Tell a step that is new, or has lasted for a while."""
        now = self._clock()
        if step != self._said:
            self._began = now
            self._tell(step)
        elif now - self._said_at >= _SAY_EVERY_S:
            self._tell(f"{step} {now - self._began:.0f} s so far")
        else:
            return
        self._said, self._said_at = step, now


def _step(run: Path) -> str:
    """Return the present step of the rehearsal."""
    entries = list(read_entries(RunFolder(run).journal))
    done, progress = sum(isinstance(one, Round) for one in entries), read_json(RunFolder(run).progress)
    if len(entries) > done:
        return "rehearsal: final evaluation done"
    if done == _ROUNDS:
        return f"rehearsal: rounds 1 to {_ROUNDS} done, final evaluation running ..."
    if done or progress.get("round"):
        return f"rehearsal: round {done + 1} of {_ROUNDS} running ..."
    if progress:
        return "rehearsal: the site starts and opens its images ..."
    return "rehearsal: the coordinator starts ..."


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
