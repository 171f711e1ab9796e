"""A coordinator and sites as real processes on loopback; every process is found and ended.

Each service has a keeper, so that it ends also when the test run itself is killed.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from flwr.cli.build import build_fab_from_disk

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.bundle import bundle_sha256
from cdtl_core.deploy.enrolling import make_site
from cdtl_core.deploy.local import LocalFederation
from cdtl_core.deploy.participation import Part
from cdtl_core.deploy.preparing import prepare_run
from cdtl_core.deploy.request import load_request, save_request
from cdtl_core.deploy.runs import ENDED, RunState, load_run_state, queue_run, save_run_state
from cdtl_core.deploy.status import coordinator_status
from cdtl_core.system.foreign import read_json
from cdtl_core.system.processes import ProcessGroup
from tests.stub import STUB

MARK = "CDTL_TEST_DEPLOYMENT"
MODEL = {"backbone": "test_efficientnet"}
"""The cheapest network that processes of their own know."""


class Deployment(LocalFederation):
    """One coordinator and its sites below a folder."""

    def __init__(self, folder: Path, sites: list[SiteConfig], run: RunConfig) -> None:
        assert run.model.backbone != STUB, "processes do not know the stub: use MODEL"
        super().__init__(folder)
        self.ports: dict[str, int] = {}  # of sites that reach the coordinator through something else
        self.settings = {site.site: site for site in sites}
        self._mark = secrets.token_hex(8)
        self._services: dict[str, ProcessGroup] = {}
        self._logs = folder
        for site in sites:
            make_site(folder / "at" / site.site, site)
            self.admit(folder / "at" / site.site, run)

    def start(self, name: str, part: Part = "all") -> None:
        """Start ``coordinator`` or a site, or the filter or the node of a site."""
        group = ProcessGroup({**os.environ, MARK: self._mark}, Path.cwd())
        service = name if part != "node" else f"{name}-node"
        group.start(service, self.command(name, part, self.ports.get(name)), self._logs / f"{service}.log")
        self._services[service] = group

    def start_all(self) -> None:
        for name in ("coordinator", *self.homes):
            self.start(name)

    def kill(self, name: str) -> None:
        """kill -9 of a service's own process; its programs must follow by themselves."""
        self._services.pop(name).kill()

    def program(self, name: str, part: str) -> int:
        """The process of a service that runs `part`; the sandbox around it has the name further back in its command."""
        children = psutil.Process(self._services[name].pids()[name]).children(recursive=True)
        return next(child.pid for child in children if part in " ".join(child.cmdline()[:3]))

    def pid(self, name: str) -> int:
        """A service's own process."""
        return self._services[name].pids()[name]

    def request(self, config: RunConfig) -> Path:
        """Prepare a run; returns its folder."""
        return prepare_run(self.coordinator, config)[0]

    def approve(self, run: Path, *sites: str) -> None:
        for site in sites or tuple(self.homes):
            approve(self.homes[site], load_request(run / "request.json"), self.settings[site])

    def alter(self, run: Path, file: str, more: str) -> None:
        """Change the code of a prepared run, as a dishonest coordinator would."""
        path = run / "app" / file
        path.write_text(path.read_text() + more)
        bundle = bytes(build_fab_from_disk(run / "app"))
        (run / "bundle.fab").write_bytes(bundle)
        request = load_request(run / "request.json")
        save_request(run / "request.json", request.model_copy(update={"bundle_sha256": bundle_sha256(bundle)}))

    def play(self, run: Path) -> None:
        queue_run(run)

    def play_again(self, run: Path) -> None:
        """Play an ended run again, as a dishonest coordinator would."""
        (run / "outcome.json").unlink(missing_ok=True)
        save_run_state(run, RunState(queued_at=time.time()))

    def ended(self, run: Path, *, timeout_s: float = 420.0) -> str:
        """Wait until a run has ended; returns its status."""
        self.until(lambda: (state := load_run_state(run)) is not None and state.status in ENDED, timeout_s, "the run")
        state = load_run_state(run)
        assert state is not None
        return state.status

    def in_round(self, run: Path, round: int) -> None:
        """Wait until a round is under way at every site."""
        self.until(lambda: self._at_work(run, round), 240.0, f"round {round}")

    def _at_work(self, run: Path, round: int) -> bool:
        progress = read_json(run / "progress.json")
        waiting: Mapping[str, str] = progress.get("waiting", {})
        return progress.get("round") == round and set(waiting.values()) == {"working"}

    def until(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}: {self.story()}"
            time.sleep(0.1)

    def connected(self, timeout_s: float = 300.0) -> None:
        """Wait until every site that was started is connected: seconds, or minutes on a loaded machine."""

        def all_there() -> bool:
            sites = coordinator_status(self.coordinator)["sites"]
            return all(sites[name]["connected"] for name in self._services if name != "coordinator")

        self.until(all_there, timeout_s, "the sites")

    def story(self) -> str:
        """Return the output of the services, for a failing test."""
        logs = [*self._logs.glob("*.log"), *self.coordinator.glob("logs/run.log")]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    def lines(self, run: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.coordinator / "logs" / "access.log").read_text().splitlines()]

    def processes(self) -> list[psutil.Process]:
        """Every process that this deployment has started and that still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self) -> None:
        """End every service as a person would, then see that nothing is left."""
        for service in self._services.values():
            service.stop(patience_s=60.0)
        self._services.clear()
        self.gone()

    def gone(self, timeout_s: float = 15.0) -> None:
        """Wait until no process of ours is left."""
        deadline = time.monotonic() + timeout_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"orphans: {[' '.join(process.cmdline()) for process in left]}"

    def end(self) -> None:
        """Kill what is left, whatever happened."""
        for service in self._services.values():
            service.kill()
        for process in self.processes():
            process.kill()
