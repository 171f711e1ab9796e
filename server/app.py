"""Flower's ServerApp: load or start, play the rounds that are left, finish."""

import logging
import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from cdtl_core.errors import FederationError
from cdtl_core.threads import set_thread_defaults

set_thread_defaults()
app = ServerApp()
_log = logging.getLogger("cdtl.server")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation to its end, from its last checkpoint if there is one."""
    from cdtl_core.federation.checkpoint import load_latest, save_checkpoint
    from cdtl_core.federation.coordinator import round_matrices, start
    from cdtl_core.learning.model import build_theta0
    from cdtl_core.progress import report
    from cdtl_core.settings import unflatten
    from server.journal import Journal
    from server.strategy import finish_run, introduce, play_round, resume_with

    config, home = unflatten(context.run_config), _home(context)
    report(method=config.method)
    checkpoints, journal = home / "checkpoints" / config.method, Journal(home, config.method)
    party = introduce(grid, config, build_theta0(config.model, config.seed, config.image.size))
    state, faults = load_latest(checkpoints)
    for fault in faults:
        _log.warning("%s", fault)
    state = resume_with(party, state) if state else start(party.members, config, party.theta0_hash)
    round_matrices(state, config)
    journal.rewind(state.round)
    while state.round < config.federation.rounds:
        began = time.monotonic()
        state, result, replies = play_round(party, state)
        journal.add_round(result, replies, time.monotonic() - began)  # before the checkpoint: a resume drops it again
        save_checkpoint(checkpoints, state)
    began = time.monotonic()
    finals = {reply.site: (reply, final) for reply, final in finish_run(party, state)}
    journal.add_finish(state.round + 1, finals, time.monotonic() - began)


def _home(context: Context) -> Path:
    """The run directory: told by the caller, or by the environment of the process that Flower starts."""
    home = context.node_config.get("home") or os.environ.get("CDTL_RUN")
    if not home:
        raise FederationError("the server has no run directory: start it with cdtl.")
    return Path(str(home))
