"""Prepares a coordinator's run: checks it, writes its request, and decides whether its name is free."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from cdtl_core.config import NAMED_WEIGHTS, RunConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import flatten, save_toml
from cdtl_core.deploy.bundle import build_bundle, bundle_sha256, check_carried
from cdtl_core.deploy.members import members
from cdtl_core.deploy.request import ApprovalRequest, load_request, make_request, save_request
from cdtl_core.deploy.runs import load_run_state
from cdtl_core.errors import CheckpointError, ConfigError, FederationError
from cdtl_core.federation.contract import label_hash, most_patients
from cdtl_core.federation.preflight import Candidate, check_network, check_run
from cdtl_core.federation.state import Member
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import Weights, weights_hash
from cdtl_core.system.durable import replace_bytes

__all__ = ["changed_settings", "discard_run", "finished_run", "prepare_run"]


def prepare_run(
    folder: Path, config: RunConfig, *, tell: Callable[[str], object] = lambda _: None
) -> tuple[Path, ApprovalRequest, bool]:
    """Make the folder of a run with its bundle and request; an earlier run with the same settings continues.

    Everything that can be known of a run is checked before its request is written. The name of a run that was never
    started or that failed is free.

    Args:
        folder: The coordinator's folder.
        config: The run's settings.
        tell: Called with each sentence that the coordinator should read before it asks the sites.

    Returns:
        The folder, the request, and whether the run continues.

    Raises:
        FederationError: A site of the run is not admitted, or its contract does not fit the run.
        ConfigError, ModelError, PrivacyError: A setting is wrong for these sites, or the bundle lacks code that the run
            needs.
        CheckpointError: There is another run of that name.
    """
    run = folder / "runs" / config.name
    before = _request_of(run)
    if before is not None and _keeps_name(run, before) and (changes := changed_settings(config, before)):
        raise _name_is_taken(run, f"it has other settings: {'; '.join(changes[:3])}")
    config = _with_sites(folder, config, before, tell)
    chosen = [member.enrolment.contract for member in members(folder) if member.site in config.federation.sites]
    check_carried(config, [contract.modality for contract in chosen])
    draft = run.with_name(f".{config.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        config = _with_weights(draft, config)
        weights = build_initial_weights(config.model, config.seed, config.image.size, folder=draft)
        config = _with_limits(config, weights_hash(weights))
        bundle = build_bundle(draft / "app", config.plugins)
        request = make_request(config, bundle_sha256(bundle))
        if before == request:
            return run, request, True
        if before is not None and _keeps_name(run, before):
            raise _name_is_taken(run, "it was requested by another version of cdtl")
        for note in _checked(folder, config, weights):
            tell(note)
        replace_bytes(draft / "bundle.fab", bundle)
        save_toml(RunFolder(draft).config, config.model_dump(mode="json"))
        save_toml(draft / "settings.toml", flatten(config))
        save_request(draft / "request.json", request)
        if before is not None:
            tell(f"The failed run of this name is kept in {_set_aside(run)}; its sites approve the new one again.")
        shutil.rmtree(run, ignore_errors=True)
        draft.rename(run)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return run, request, False


def discard_run(run: Path) -> None:
    """Remove a run that was prepared and never started."""
    if load_run_state(run) is None:
        shutil.rmtree(run, ignore_errors=True)


def finished_run(folder: Path, config: RunConfig) -> Path | None:
    """Return the folder of the completed run with this name and these settings, if there is one."""
    run = folder / "runs" / config.name
    state, before = load_run_state(run), _request_of(run)
    completed = state is not None and state.status == "completed"
    return run if completed and before is not None and not changed_settings(config, before) else None


def changed_settings(config: RunConfig, request: ApprovalRequest) -> list[str]:
    """Return the settings that differ from those of a request, each with both values.

    Settings that `prepare_run` fills in are compared only if `config` gives them.
    """
    filled = {"limits.initial_weights_hash"}
    filled |= set() if config.federation.sites else {"federation.sites"}
    filled |= set() if config.model.weights in NAMED_WEIGHTS else {"model.weights"}
    return [
        f"{key} was {request.settings.get(key)} and is {value}"
        for key, value in flatten(config).items()
        if key not in filled and request.settings.get(key) != value
    ]


def _request_of(run: Path) -> ApprovalRequest | None:
    """Return the request of a run that was started; None if there is none, so that the name is free."""
    return load_request(run / "request.json") if load_run_state(run) is not None else None


def _keeps_name(run: Path, request: ApprovalRequest) -> bool:
    """Whether a run that was started keeps its name: a failed one does not.

    A private one does even then. Its sites have planned their noise and stored their updates under this name.
    """
    state = load_run_state(run)
    return state is None or state.status != "failed" or bool(request.settings.get("dp.enabled"))


def _name_is_taken(run: Path, why: str) -> CheckpointError:
    state = load_run_state(run)
    status = state.status if state else "not started"
    return CheckpointError(
        f"the folder {run} holds another run, which is {status}; {why}. Choose another name, for example --set "
        f"name={run.name}-2."
    )


def _set_aside(run: Path) -> Path:
    """Move the folder of a failed run out of the way of the next one; return where it is."""
    kept = run.with_name(f".{run.name}.failed")
    shutil.rmtree(kept, ignore_errors=True)
    run.rename(kept)
    return kept


def _with_sites(
    folder: Path, config: RunConfig, before: ApprovalRequest | None, tell: Callable[[str], object]
) -> RunConfig:
    """Return the run with its sites named: those it lists, those that it had before, or all admitted sites.

    Args:
        folder: The coordinator's folder.
        config: The run's settings.
        before: The request of the run of this name, if there is one.
        tell: Called with a sentence about admitted sites that a continued run does not have.
    """
    admitted = {member.site for member in members(folder) if member.revoked_at is None}
    sites = config.federation.sites or tuple(sorted(admitted))
    if before is not None and not config.federation.sites and set(before.sites) < admitted:
        sites = before.sites
        tell(f"The run keeps its sites {', '.join(sites)}; not in it: {', '.join(sorted(admitted - set(sites)))}.")
    unknown = [site for site in sites if site not in admitted]
    if unknown:
        raise FederationError(
            f"{', '.join(unknown)} in federation.sites is not admitted: admit it or remove it from the list."
        )
    if not sites:
        raise FederationError("no site is admitted: admit at least one with cdtl server admit.")
    return config.model_copy(update={"federation": config.federation.model_copy(update={"sites": sites})})


def _checked(folder: Path, config: RunConfig, weights: Weights) -> list[str]:
    """Check a run as `cdtl simulate` does, with the contracts of its sites; return notes.

    The number of training patients is the largest that a contract and the split allow.
    """
    check_network(config, weights)
    candidates = []
    for member in members(folder):
        contract = member.enrolment.contract
        if member.site in config.federation.sites:
            patients = math.ceil(most_patients(contract) * (1 - config.split.test - config.split.val))
            known = Member(member.site, contract.modality, max(patients, 1), label_hash(contract.labels))
            candidates.append(Candidate(known, contract))
    return check_run(candidates, config, config.limits.initial_weights_hash)


def _with_weights(run: Path, config: RunConfig) -> RunConfig:
    """Return the run with its own copy of a weights file, so that sites see no path of this machine."""
    if config.model.weights in NAMED_WEIGHTS:
        return config
    name = "weights.safetensors"
    try:
        shutil.copyfile(Path(config.model.weights).expanduser(), run / name)
    except OSError as error:
        raise ConfigError(
            f"model.weights {config.model.weights} cannot be read ({error.strerror}): give a .safetensors file."
        ) from None
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": name})})


def _with_limits(config: RunConfig, found: str) -> RunConfig:
    """Return the run with the hash `found` of its initial weights, which the sites approve.

    Raises:
        ConfigError: The settings name another hash.
    """
    if config.limits.initial_weights_hash not in {"", found}:
        raise ConfigError(
            f"limits.initial_weights_hash is {config.limits.initial_weights_hash[:12]} "
            "and the initial weights of these settings have "
            f"{found[:12]}: remove the setting, it is filled in automatically."
        )
    return config.model_copy(update={"limits": config.limits.model_copy(update={"initial_weights_hash": found})})
