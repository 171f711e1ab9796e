"""The coordinator's runs at its desk: who is waited for, each round, the results, the report."""

from pathlib import Path
from typing import Any

from starlette.responses import Response

from cdtl_core.config.folders import RunFolder
from cdtl_core.deploy.request import load_request
from cdtl_core.deploy.runs import ENDED, enrolled_patients, stop_run
from cdtl_core.deploy.status import coordinator_status
from cdtl_core.desk.desk import Visit
from cdtl_core.desk.server_sites import attachment
from cdtl_core.errors import ConfigError
from cdtl_core.federation.journal import Journal, read_journal
from cdtl_core.results.text import ending_rows, round_lines

__all__ = ["Runs"]


class Runs:
    """Pages and forms about runs.

    Args:
        folder: The coordinator's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, visit: Visit) -> Response:
        """Show all runs, the newest first."""
        return visit.page(
            "server_runs.html", "Runs", runs=coordinator_status(self._folder)["runs"], folder=self._folder
        )

    def show(self, visit: Visit) -> Response:
        """Show a run; the page brings itself up to date while the run is under way."""
        run, state = self._run(visit.parameters["name"])
        journal = self._journal(run)
        rounds = [(one.number, round_lines(one, state["rounds"] or 0)) for one in journal.rounds] if journal else []
        ending = journal.ending if journal else None
        return visit.page(
            "server_run.html",
            f"Run {run.name}",
            run=state,
            live=state["status"] not in ENDED,
            request=load_request(run / "request.json"),
            rounds=rounds[::-1],
            results=ending_rows(ending, enrolled_patients(run)) if ending else [],
        )

    def request(self, visit: Visit) -> Response:
        """Send what the sites approve."""
        run, _ = self._run(visit.parameters["name"])
        return attachment((run / "request.json").read_bytes(), f"{run.name}-request.json")

    def report(self, visit: Visit) -> Response:
        """Show the coordinator's report of a run, which holds no image and no score of a patient."""
        from cdtl_core.report.coordinator import coordinator_page  # figures take a while to load
        from cdtl_core.report.page import page_html

        run, _ = self._run(visit.parameters["name"])
        return visit.document(page_html(coordinator_page(run)))

    def stop(self, visit: Visit) -> Response:
        """End a run at its next message; `cdtl server run` continues it."""
        run, _ = self._run(visit.parameters["name"])
        stop_run(self._folder, run.name)
        return visit.go(f"/runs/{run.name}", "The run is being stopped; cdtl server run continues it.")

    def _run(self, name: str) -> tuple[Path, dict[str, Any]]:
        found = {run["name"]: run for run in coordinator_status(self._folder)["runs"]}.get(name)
        if found is None:
            raise ConfigError(f"there is no run {name}.")
        return self._folder / "runs" / found["name"], found

    def _journal(self, run: Path) -> Journal | None:
        journals = read_journal(RunFolder(run).journal)
        return journals[-1] if journals else None
