"""A coordinator's runs: one folder each, with the code and settings that sites approve, and the run's state.

::

    DIR/runs/<name>/config.toml     the resolved settings
    DIR/runs/<name>/request.json    what sites approve
    DIR/runs/<name>/bundle.fab      the code, byte for byte
    DIR/runs/<name>/run.json        status, kept by the service
    DIR/runs/<name>/enrolled.json   the enrolment of its sites, written before each try
    DIR/runs/<name>/progress.json, rounds.jsonl, checkpoints/, outcome.json    written by the run itself
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import flatten, save_toml
from cdtl_core.deploy.bundle import build_bundle, bundle_sha256
from cdtl_core.deploy.members import members
from cdtl_core.deploy.request import ApprovalRequest, load_request, make_request, save_request
from cdtl_core.errors import CheckpointError, ConfigError, FederationError
from cdtl_core.system.durable import replace_bytes, replace_json

__all__ = ["ENDED", "RunState", "load_run_state", "prepare_run", "queue_run", "run_folders"]
__all__ += ["save_enrolled", "save_run_state", "stop_run"]

ENDED = {"completed", "incomplete", "failed", "stopped"}
_STATE = "run.json"


class RunState(BaseModel):
    """State of a run.

    Attributes:
        status: Ended runs are in `ENDED`; incomplete: some site has no model.
        flower_run: Flower's number of the current try; empty if there is none.
        tries: Flower runs since the last complete round.
        round: The last complete round when the last try began.
        reason: Why it ended, a sentence.
        exit_code: Exit code at its end.
        queued_at: Seconds since 1970.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["queued", "running", "completed", "incomplete", "failed", "stopped"] = "queued"
    flower_run: str = ""
    tries: int = 0
    round: int = 0
    reason: str = ""
    exit_code: int = 0
    queued_at: float = 0.0


def prepare_run(folder: Path, config: RunConfig) -> tuple[Path, ApprovalRequest, bool]:
    """Make the folder of a run with its bundle and request; an earlier run with the same settings continues.

    Returns:
        The folder, the request, and whether the run continues.

    Raises:
        FederationError: A site of the run is not admitted, or no site is.
        CheckpointError: There is another run of that name.
    """
    config = _with_sites(folder, config)
    run = folder / "runs" / config.name
    draft = run.with_name(f".{config.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    config = _with_limits(draft, _with_weights(draft, config))
    bundle = build_bundle(draft / "app")
    request = make_request(config, bundle_sha256(bundle))
    if (run / "request.json").exists():
        shutil.rmtree(draft)
        if load_request(run / "request.json") != request:
            raise CheckpointError(
                f"the folder {run} holds another run (other settings or another version of cdtl): choose another name, "
                "for example --set name=second."
            )
        return run, request, True
    replace_bytes(draft / "bundle.fab", bundle)
    save_toml(RunFolder(draft).config, config.model_dump(mode="json"))
    save_toml(draft / "settings.toml", flatten(config))
    save_request(draft / "request.json", request)
    shutil.rmtree(run, ignore_errors=True)
    draft.rename(run)
    return run, request, False


def queue_run(run: Path) -> None:
    """Ask the coordinator's service to start or continue a run."""
    state = load_run_state(run)
    if state is None or state.status in ENDED:
        for path in (RunFolder(run).outcome, run / "stop"):
            path.unlink(missing_ok=True)
        save_run_state(run, RunState(queued_at=time.time()))


def stop_run(folder: Path, name: str) -> None:
    """Ask the coordinator's service to stop a run.

    Raises:
        FederationError: There is no such run under way.
    """
    run = folder / "runs" / name
    state = load_run_state(run)
    if state is None or state.status in ENDED:
        raise FederationError(f"no run {name} is under way: cdtl server status lists the runs.")
    replace_bytes(run / "stop", b"")


def run_folders(folder: Path) -> Iterator[Path]:
    """Return the folders of all requested runs, the oldest first."""
    found = [(state.queued_at, path) for path in (folder / "runs").glob("[!.]*") if (state := load_run_state(path))]
    yield from (path for _, path in sorted(found))


def load_run_state(run: Path) -> RunState | None:
    """Return a run's state; None if it was not requested.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = run / _STATE
    if not path.exists():
        return None
    try:
        return RunState.model_validate_json(path.read_bytes())
    except ValidationError:
        raise CheckpointError(f"{path} is damaged: remove it and start the run again.") from None


def save_run_state(run: Path, state: RunState) -> None:
    """Save a run's state."""
    replace_json(run / _STATE, state.model_dump(mode="json"))


def save_enrolled(folder: Path, run: Path) -> None:
    """Write the enrolment of the coordinator's sites for a run, which compares their introductions with it."""
    contracts = {member.site: member.enrolment.contract.model_dump(mode="json") for member in members(folder)}
    replace_json(RunFolder(run).enrolled, contracts)


def _with_sites(folder: Path, config: RunConfig) -> RunConfig:
    """Return the run with its sites named: those it lists, else all admitted sites."""
    admitted = [member.site for member in members(folder) if member.revoked_at is None]
    sites = config.federation.sites or tuple(sorted(admitted))
    unknown = [site for site in sites if site not in admitted]
    if unknown:
        raise FederationError(
            f"{', '.join(unknown)} in federation.sites is not admitted: admit it or remove it from the list."
        )
    if not sites:
        raise FederationError("no site is admitted: admit at least one with cdtl server admit.")
    if config.federation.min_sites > len(sites):
        raise ConfigError(
            f"federation.min_sites is {config.federation.min_sites} and the run has {len(sites)} sites: lower "
            "federation.min_sites."
        )
    return config.model_copy(update={"federation": config.federation.model_copy(update={"sites": sites})})


def _with_weights(run: Path, config: RunConfig) -> RunConfig:
    """Return the run with its own copy of a weights file, so that sites see no path of this machine."""
    if config.model.weights in {"imagenet", "random"}:
        return config
    name = "weights.safetensors"
    try:
        shutil.copyfile(Path(config.model.weights).expanduser(), run / name)
    except OSError as error:
        raise ConfigError(
            f"model.weights {config.model.weights} cannot be read ({error.strerror}): give a .safetensors file."
        ) from None
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": name})})


def _with_limits(run: Path, config: RunConfig) -> RunConfig:
    """Return the run with the hash of its initial weights, which the sites approve.

    Raises:
        ConfigError: The settings name another hash.
        ModelError: The weights cannot be loaded.
    """
    from cdtl_core.models.model import build_initial_weights
    from cdtl_core.models.weights import weights_hash

    found = weights_hash(build_initial_weights(config.model, config.seed, config.image.size, folder=run))
    if config.limits.initial_weights_hash not in {"", found}:
        raise ConfigError(
            f"limits.initial_weights_hash is {config.limits.initial_weights_hash[:12]} "
            "and the initial weights of these settings have "
            f"{found[:12]}: remove the setting, it is filled in automatically."
        )
    return config.model_copy(update={"limits": config.limits.model_copy(update={"initial_weights_hash": found})})
