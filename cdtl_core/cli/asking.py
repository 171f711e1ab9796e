"""`cdtl server run`: ask for a run, and follow it; Ctrl-C leaves it to the coordinator."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cdtl_core.cli.parties import confirm, print_request
from cdtl_core.errors import FederationError

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig

__all__ = ["ask_for_run", "follow_to_end"]


def ask_for_run(folder: Path, config: "RunConfig", *, yes: bool) -> Path:
    """Prepare a run, show its request, ask for confirmation, and start it; returns its folder.

    A run that is not confirmed leaves nothing behind, so its name is free.

    Args:
        folder: The coordinator's folder.
        config: The run's settings.
        yes: Do not ask.

    Raises:
        CdtlError: The run cannot start with these settings and sites, or it was not confirmed.
    """
    from cdtl_core.deploy.preparing import discard_run, prepare_run
    from cdtl_core.deploy.runs import queue_run

    place, request, again = prepare_run(folder, config, tell=lambda text: typer.echo(f"Note: {text}", err=True))
    print_request(request)
    if not again:
        try:
            confirm("Start this run?", yes)
        except (FederationError, typer.Abort):
            discard_run(place)
            raise
    queue_run(place)
    typer.echo(f"Hand to the sites: {place / 'request.json'}; each approves with cdtl site approve.")
    return place


def follow_to_end(folder: Path, run: Path, config: Path) -> int:
    """Follow a run to its end; returns its exit code, 130 after Ctrl-C.

    Args:
        folder: The coordinator's folder.
        run: The run's folder.
        config: The configuration as it was given, for the command that follows the run again.
    """
    from cdtl_core.cli.follow import follow_run
    from cdtl_core.cli.watching import writing_events

    try:
        with writing_events(run):
            return follow_run(folder, run)
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe run continues at the coordinator. cdtl server run {folder} {config} with the same options shows it "
            f"again; cdtl server stop {folder} --run {run.name} ends it.",
            err=True,
        )
        return 130
