"""A request for approval: what a coordinator hands to the sites before a run, and they approve or not."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import cdtl_core
from cdtl_core.config import RunConfig
from cdtl_core.durable import replace_bytes
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.egress import EgressManifest, egress_manifest
from cdtl_core.schema import Flat, Sha256, SiteName, Version, first_fault
from cdtl_core.settings import flatten, unflatten

__all__ = ["ApprovalRequest", "check_request", "load_request", "make_request", "request_id", "save_request"]


class ApprovalRequest(BaseModel):
    """What a run will do: which code, with which settings, and what its replies will hold.

    Attributes:
        name: Of the federation.
        cdtl_version: The coordinator's.
        bundle_sha256: Of the code bundle's bytes.
        settings: All settings of the run, as `cdtl_core.settings.flatten` gives them.
        egress: For a site of the task's labels; each site works out its own.
        sites: Whom the coordinator asks.
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
    """The request for a run; builds the network once for the egress list."""
    return ApprovalRequest(
        name=config.name,
        cdtl_version=cdtl_core.__version__,
        bundle_sha256=bundle_sha256,
        settings=flatten(config),
        egress=egress_manifest(config),
        sites=config.federation.sites,
    )


def check_request(request: ApprovalRequest) -> None:
    """Refuse a request whose name, sites or egress list are not those of its settings: the settings are what counts.

    Raises:
        ConfigError: The settings are not those of a run.
        PrivacyError: It shows another run than it is.
    """
    true = make_request(unflatten(request.settings), request.bundle_sha256)
    if (request.name, request.sites, request.egress) != (true.name, true.sites, true.egress):
        raise PrivacyError(
            "the request shows another run than its settings make, so it was altered or is of another cdtl version: "
            "ask the coordinator for it again."
        )


def request_id(bundle_sha256: str, settings: Flat) -> str:
    """Sixteen hex digits that name this code with these settings; 1 and 1.0 are the same setting."""
    same = {key: float(value) if type(value) is int else value for key, value in settings.items()}
    text = json.dumps([bundle_sha256, same], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_request(path: Path, request: ApprovalRequest) -> None:
    """Write a request as JSON, atomically."""
    replace_bytes(path, request.model_dump_json(indent=1).encode())


def load_request(path: Path) -> ApprovalRequest:
    """Read a request.

    Raises:
        ConfigError: The file is missing or is no request.
    """
    try:
        return ApprovalRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the request {path} cannot be read ({error.strerror}): give the coordinator's file."
        ) from None
    except ValidationError as error:
        raise ConfigError(
            f"the request {path} is wrong in {first_fault(error)}: ask the coordinator for one of this cdtl version."
        ) from None
