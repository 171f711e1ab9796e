"""Flower's ServerApp: load or start, play the rounds that are left, finish, and say how it ended."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from cdtl_core.coordinator.status import RUNS, keeping_progress, save_outcome
from cdtl_core.errors import CdtlError, CheckpointError, FederationError, ModelError
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.threads import set_thread_defaults

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig

set_thread_defaults()
app = ServerApp()
_log = get_logger("cdtl.server")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation to its end, from its last checkpoint if there is one."""
    from cdtl_core.config.settings import unflatten

    config = unflatten(context.run_config)
    home = _home(context, config.name)
    with keeping_progress(home):
        try:
            missing = _run(grid, config, home)
        except (CdtlError, OSError) as error:
            fault = disk_fault(error) if isinstance(error, OSError) else error
            _log.error("%s", fault)
            with suppress(CheckpointError):  # the disk may be what failed; the run is tried again then
                save_outcome(home, "failed", str(fault), fault.exit_code)
            raise fault from error
    save_outcome(home, "incomplete" if missing else "completed", missing)


def _run(grid: Grid, config: "RunConfig", home: Path) -> str:
    """Play a run; returns who has no model at its end and why, empty if every member has."""
    from cdtl_core.coordinator.enrolled import enrolled_contracts
    from cdtl_core.coordinator.exchange import Exchange
    from cdtl_core.coordinator.journal import Journal
    from cdtl_core.coordinator.ledgers import KnownLedgers
    from cdtl_core.coordinator.membership import gather_sites, named, open_membership
    from cdtl_core.coordinator.strategy import begin, finish_run, play_round
    from cdtl_core.federation.checkpoint import load_latest, save_checkpoint
    from cdtl_core.federation.round import robust_notes, round_matrices
    from cdtl_core.models.model import build_initial_weights
    from cdtl_core.system.progress import report

    report(method=config.method)
    journal = Journal(home, config.method)
    checkpoints = home / "checkpoints" / config.method
    before, faults = load_latest(checkpoints)
    for fault in faults:
        _log.warning("%s", fault)
    folder = home if RUNS in os.environ else Path()
    initial_weights = build_initial_weights(config.model, config.seed, config.image.size, folder=folder)
    ledgers = KnownLedgers(_ledgers(home, config.method))
    membership = open_membership(Exchange(grid), config, initial_weights, ledgers, enrolled_contracts(home))
    _check_initial_weights(config, membership.initial_weights_hash)
    gather_sites(membership, {member.site: member for member in before.members} if before else {})
    state = begin(membership, before)
    round_matrices(state, config)
    for note in robust_notes(state, config):
        _log.warning("%s", note)
    journal.rewind(state.round)
    while state.round < config.federation.rounds:
        began = time.monotonic()
        state, played = play_round(membership, state)
        journal.add_round(played, time.monotonic() - began)  # before the checkpoint: a resume drops it again
        save_checkpoint(checkpoints, state)
    began = time.monotonic()
    finish = finish_run(membership, state)
    journal.add_finish(state.round + 1, finish, time.monotonic() - began)
    return named({**finish.missing, **membership.absent()})


def _check_initial_weights(config: "RunConfig", found: str) -> None:
    """Refuse to begin from other initial weights than the request names: each site would refuse every order."""
    if config.limits.initial_weights_hash not in {"", found}:
        raise ModelError(
            f"the initial weights have the hash {found[:12]}, the request that the sites approved names "
            f"{config.limits.initial_weights_hash[:12]}: restore the weights file and the versions of torch and timm, "
            "or make a new request under another name."
        )


def _ledgers(home: Path, method: str) -> Path:
    """Of all runs of a coordinator; of one run where there is none, as in a simulation."""
    return home.parent / "ledgers.json" if RUNS in os.environ else home / f"ledgers-{method}.json"


def _home(context: Context, name: str) -> Path:
    """The run directory: told by the caller, or by the environment of the process that Flower starts."""
    if home := context.node_config.get("home") or os.environ.get("CDTL_RUN"):
        return Path(str(home))
    if runs := os.environ.get(RUNS):
        return Path(runs) / name
    raise FederationError("the server has no run directory: start it with cdtl.")
