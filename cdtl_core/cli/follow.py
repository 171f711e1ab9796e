"""Progress of a run at its coordinator: missing sites, each round, and the results."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.table import Table

from cdtl_core.cli.screen import open_console
from cdtl_core.config.folders import RunFolder
from cdtl_core.errors import FederationError
from cdtl_core.results.text import ending_rows, round_lines
from cdtl_core.system.foreign import read_json, visible

if TYPE_CHECKING:
    from cdtl_core.federation.journal import Ending

__all__ = ["Follower", "follow_run", "print_ending", "print_result"]

_LOOK_S = 0.5
_MOST = 2000  # characters of the reason of an end: a sentence for each site


class Follower:
    """Prints what is new in a run at each look: missing sites, rounds, the results."""

    def __init__(self, run: Path) -> None:
        self._run, self._printed, self._said = run, 0, ""

    def look(self) -> None:
        """Print the lines of the journal since the last look, and the sites that the run now waits for."""
        from cdtl_core.deploy.runs import enrolled_patients
        from cdtl_core.federation.journal import Ending, read_entries

        lines, progress = list(read_entries(RunFolder(self._run).journal)), read_json(RunFolder(self._run).progress)
        for one in lines[self._printed if self._printed <= len(lines) else 0 :]:
            if isinstance(one, Ending):
                print_ending(one, enrolled_patients(self._run))
            else:
                typer.echo("\n  ".join(round_lines(one, progress.get("rounds", 0))))
        self._printed = len(lines)
        if (text := _waiting(progress)) and text != self._said:
            typer.echo(text)
        self._said = text or self._said


def follow_run(folder: Path, run: Path) -> int:
    """Print a run's progress until it has ended, then its results; returns its exit code.

    Ctrl-C ends only the printing.

    Raises:
        FederationError: The coordinator has ended before the run.
    """
    from cdtl_core.deploy.runs import ENDED, load_run_state
    from cdtl_core.deploy.service import is_running

    follower = Follower(run)
    while True:
        state = load_run_state(run)
        follower.look()
        if state is not None and state.status in ENDED:
            _print_status(run)
            return state.exit_code or (FederationError.exit_code if state.status != "completed" else 0)
        if not is_running(folder):
            raise FederationError(f"the coordinator has ended; cdtl server start {folder} continues the run.")
        time.sleep(_LOOK_S)


def print_result(run: Path) -> None:
    """Print what each site has of a run, and how the run has ended."""
    from cdtl_core.deploy.runs import enrolled_patients
    from cdtl_core.federation.journal import read_journal

    for journal in read_journal(RunFolder(run).journal)[-1:]:
        if journal.ending is not None:
            print_ending(journal.ending, enrolled_patients(run))
    _print_status(run)


def print_ending(ending: "Ending", patients: Mapping[str, str]) -> None:
    """Print one row per site: AUROC on its test patients, and which model it uses.

    Args:
        ending: The end of a run.
        patients: Site to its enrolled patients, of whom the coordinator does not know how many are for testing.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"final evaluation in {ending.seconds or 0:.0f} s")
    for name in ("site", "AUROC on test patients (95 %)", "enrolled patients", "model"):
        table.add_column(name, overflow="fold")
    for row in ending_rows(ending, patients):
        table.add_row(*map(visible, row))
    open_console().print(table)


def _print_status(run: Path) -> None:
    from cdtl_core.deploy.runs import load_run_state

    state = load_run_state(run)
    reason = f". {visible(state.reason, _MOST)}" if state and state.reason else ""
    typer.echo(f"Run {run.name}: {state.status if state else 'not started'}{reason}")


def _waiting(progress: Mapping[str, Any]) -> str:
    waiting = {site: why for site, why in progress.get("waiting", {}).items() if why != "working"}
    told = [f"{visible(site)}: {visible(why)}" for site, why in waiting.items()]
    return f"waiting for {'; '.join(told)}" if told else ""
