"""Progress of a run at its coordinator: missing sites, each round, and the end."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cdtl_core.errors import FederationError
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.federation.journal import Ending, Round

__all__ = ["Follower", "follow_run"]

_LOOK_S = 0.5
_MOST = 2000  # characters of the reason of an end: a sentence for each site


class Follower:
    """Prints what is new in a run at each look: missing sites, rounds, the end."""

    def __init__(self, run: Path) -> None:
        self._run, self._printed, self._said = run, 0, ""
        self._patients: dict[str, str] = {}

    def look(self) -> None:
        """Print the lines of the journal since the last look, and the sites that the run now waits for."""
        from cdtl_core.config.folders import RunFolder
        from cdtl_core.federation.journal import read_entries
        from cdtl_core.system.foreign import read_json

        lines = list(read_entries(RunFolder(self._run).journal))
        if lines and not self._patients:
            enrolled = read_json(RunFolder(self._run).enrolled)
            self._patients = {site: f"~{contract['patients']} patients" for site, contract in enrolled.items()}
        for line in lines[self._printed if self._printed <= len(lines) else 0 :]:
            typer.echo(_text(line, self._patients))
        self._printed = len(lines)
        if (text := _waiting(read_json(RunFolder(self._run).progress))) and text != self._said:
            typer.echo(text)
        self._said = text or self._said


def follow_run(folder: Path, run: Path) -> int:
    """Print a run's progress until it has ended; returns its exit code. Ctrl-C ends only the printing.

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
            typer.echo(f"Run {run.name}: {state.status}{'. ' + visible(state.reason, _MOST) if state.reason else ''}")
            return state.exit_code or (FederationError.exit_code if state.status != "completed" else 0)
        if not is_running(folder):
            raise FederationError(f"the coordinator has ended; cdtl server start {folder} continues the run.")
        time.sleep(_LOOK_S)


def _text(one: "Round | Ending", patients: Mapping[str, str]) -> str:
    """Return a line of the journal in words.

    Args:
        one: A round, or the end.
        patients: Site to its enrolled patients, of whom the coordinator does not know how many are for testing.
    """
    from cdtl_core.federation.journal import Ending

    if isinstance(one, Ending):
        ends = [f"\n  {visible(site)} {_end(end, patients.get(site, ''))}" for site, end in one.sites.items()]
        lost = [f"\n  {visible(site)} has no model: {visible(why)}" for site, why in one.missing.items()]
        return f"finished in {one.seconds or 0:.0f} s; AUROC on test patients (95 %):{''.join([*ends, *lost])}"
    sites = [f"{visible(site)} {_number(values.get('val_auroc'))}" for site, values in one.sites.items()]
    received = f"validation AUROC of what was received: {', '.join(sites)}"
    more = [f"without {visible(site)}: {visible(why)}" for site, why in one.refused.items()]
    more += [f"without {visible(site)}: not connected" for site in one.absent]
    more += [f"{visible(site)} joined and takes part from the next round" for site in one.joined]
    return "\n  ".join([f"round {one.number} in {one.seconds or 0:.0f} s; {received}", *more])


def _end(end: Mapping[str, Any], patients: str) -> str:
    """Return a site's last figures: AUROC, interval, patients, and the model that it uses."""
    if end.get("test_auroc") is None:
        interval = "not sent"
    elif end.get("test_auroc_low") is None:
        interval = "no interval: too few test patients"
    else:
        interval = f"{_number(end['test_auroc_low'])} to {_number(end.get('test_auroc_high'))}"
    told = "; ".join(filter(None, (interval, visible(patients), visible(end["chosen"] or "model not told"))))
    return f"{_number(end.get('test_auroc'))} ({told})"


def _waiting(progress: Mapping[str, Any]) -> str:
    waiting = {site: why for site, why in progress.get("waiting", {}).items() if why != "working"}
    told = [f"{visible(site)}: {visible(why)}" for site, why in waiting.items()]
    return f"waiting for {'; '.join(told)}" if told else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
