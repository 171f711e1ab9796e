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

__all__ = ["follow_run"]

_LOOK_S = 0.5
_MOST = 2000  # characters of the reason of an end: a sentence for each site


def follow_run(folder: Path, run: Path) -> int:
    """Print a run's progress until it has ended; returns its exit code. Ctrl-C ends only the printing.

    Raises:
        FederationError: The coordinator has ended before the run.
    """
    from cdtl_core.config.folders import RunFolder
    from cdtl_core.deploy.runs import ENDED, load_run_state
    from cdtl_core.deploy.service import is_running
    from cdtl_core.federation.journal import read_entries
    from cdtl_core.system.foreign import read_json

    printed, said = 0, ""
    while True:
        state = load_run_state(run)
        lines = list(read_entries(RunFolder(run).journal))
        if len(lines) < printed:
            printed = 0
        for line in lines[printed:]:
            typer.echo(_text(line))
        printed = len(lines)
        if state is not None and state.status in ENDED:
            typer.echo(f"Run {run.name}: {state.status}{'. ' + visible(state.reason, _MOST) if state.reason else ''}")
            return state.exit_code or (FederationError.exit_code if state.status != "completed" else 0)
        progress = read_json(RunFolder(run).progress)
        if (text := _waiting(progress)) and text != said:
            typer.echo(text)
        said = text or said
        if not is_running(folder):
            raise FederationError(f"the coordinator has ended; cdtl server start {folder} continues the run.")
        time.sleep(_LOOK_S)


def _text(one: "Round | Ending") -> str:
    from cdtl_core.federation.journal import Ending

    if isinstance(one, Ending):
        ends = [
            f"{visible(site)} {_number(end.get('test_auroc'))} ({visible(end['chosen'] or 'not told')})"
            for site, end in one.sites.items()
        ]
        lost = [f"\n  {visible(site)} has no model: {visible(why)}" for site, why in one.missing.items()]
        return f"finished in {one.seconds or 0:.0f} s; test AUROC: {', '.join(ends)}{''.join(lost)}"
    sites = [f"{visible(site)} {_number(values.get('val_auroc'))}" for site, values in one.sites.items()]
    received = f"validation AUROC of what was received: {', '.join(sites)}"
    more = [f"without {visible(site)}: {visible(why)}" for site, why in one.refused.items()]
    more += [f"without {visible(site)}: not connected" for site in one.absent]
    more += [f"{visible(site)} joined and takes part from the next round" for site in one.joined]
    return "\n  ".join([f"round {one.number} in {one.seconds or 0:.0f} s; {received}", *more])


def _waiting(progress: Mapping[str, Any]) -> str:
    waiting = {site: why for site, why in progress.get("waiting", {}).items() if why != "working"}
    told = [f"{visible(site)}: {visible(why)}" for site, why in waiting.items()]
    return f"waiting for {'; '.join(told)}" if told else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
