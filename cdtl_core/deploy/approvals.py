"""Puts a run on a site's list (`approval_list.py`), and decides by the list whether a run may be executed."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.schema import Flat
from cdtl_core.config.settings import unflatten
from cdtl_core.deploy.approval_list import INITIAL_WEIGHTS, Approval, approvals, approvals_folder
from cdtl_core.deploy.persons import Signer, sign, valid_signatures
from cdtl_core.deploy.records import record_approval
from cdtl_core.deploy.refusing import lift, refused_at
from cdtl_core.deploy.request import ApprovalRequest, check_initial_weights, request_id, request_sha256
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.egress import EgressManifest, egress_hash, egress_manifest
from cdtl_core.system.durable import one_at_a_time, replace_bytes

__all__ = ["Verdict", "approve", "decide", "lock_fault", "missing_persons", "own_egress"]


@dataclass(frozen=True)
class Verdict:
    """The approval of a run, or None and a sentence that gives the reason."""

    approved: Approval | None
    reason: str


def approve(
    home: Path,
    request: ApprovalRequest,
    site: SiteConfig,
    *,
    note: str = "",
    signer: Signer | None = None,
    clock: Callable[[], float] = time.time,
) -> Approval:
    """Put a run on the site's list; the egress list is computed here from the settings.

    Args:
        home: The site's folder.
        request: The coordinator's request.
        site: The site's settings.
        note: A note for the site's own records.
        signer: Who approves; required if ``approval.keys`` of the site names persons.
        clock: Seconds since 1970.

    Raises:
        ConfigError: The settings are not those of a run, or its replies do not fit in `room_mb`.
        PrivacyError: They contradict a lock of the site, name no or other initial weights, or the signer is not one
            of the site's persons, or another person refused the run meanwhile.
        CheckpointError: The disk is full or read-only; the run is not approved.
    """
    config = unflatten(request.settings)
    if fault := _fault(request.settings, site):
        raise PrivacyError(fault)
    refused = refused_at(home, request_id(request.bundle_sha256, request.settings))
    check_initial_weights(config)
    egress = own_egress(config, site)
    _check_room(egress, site)
    settings, bundle = request.settings, request.bundle_sha256
    approval = Approval(bundle_sha256=bundle, settings=settings, egress=egress, approved_at=clock(), note=note)
    home.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(home):  # a signature that is withdrawn now must not be written again
        if refused_at(home, approval.id) not in {None, refused}:
            raise PrivacyError("the run was refused while this approval was worked out: read why, then approve again.")
        return _keep(home, approval, site, signer, clock)


def _keep(
    home: Path, approval: Approval, site: SiteConfig, signer: Signer | None, clock: Callable[[], float]
) -> Approval:
    """Sign an approval, log it and write it; arguments as of `approve`."""
    if site.approval.keys:
        before = approvals(home).get(approval.id)
        kept = valid_signatures(_core(before), before.signatures, site) if before else ()
        others = tuple(one for one in kept if signer is None or one.person != signer.person)
        signature = sign(_core(approval), signer, site, clock())
        approval = approval.model_copy(update={"signatures": (*others, signature)})
    content = approval.model_dump_json(indent=1).encode()
    signed = ", ".join(one.person for one in approval.signatures)
    sha256 = hashlib.sha256(content).hexdigest()
    record_approval(home, "approved", approval.id, sha256=sha256, signed=signed, note=approval.note, clock=clock)
    replace_bytes(approvals_folder(home) / f"{approval.id}.json", content)
    if not missing_persons(approval, site):
        for suffix in (".json", ".fab"):
            (home / "pending" / f"{approval.id}{suffix}").unlink(missing_ok=True)
    lift(home, approval.id)
    return approval


def own_egress(config: RunConfig, site: SiteConfig) -> EgressManifest:
    """Return the egress list of a run for this site; builds the network once."""
    labels, private = site.labels or config.task.labels, config.dp.enabled and not site.privacy.exempt
    return egress_manifest(config, site=site.site, modality=site.modality, labels=labels, private=private)


def _check_room(egress: EgressManifest, site: SiteConfig) -> None:
    largest = max(rule.total_bytes for rule in egress.replies.values()) / 1e6
    if largest * 1.1 > site.room_mb:  # Flower's encoding takes slightly more than the tensors
        raise ConfigError(
            f"a reply of this run takes up to {largest:.0f} MB and room_mb in site.toml is {site.room_mb}: raise "
            "it, so that a reply can wait for the coordinator."
        )


def missing_persons(approval: Approval, site: SiteConfig) -> str:
    """Name the persons whose approval a run still needs, as a sentence; empty if it may run."""
    if not site.approval.keys:
        return ""
    signed = [one.person for one in valid_signatures(_core(approval), approval.signatures, site)]
    if len(signed) >= site.approval.people:
        return ""
    others = sorted(set(site.approval.keys) - set(signed))
    return (
        f"approved by {', '.join(signed) or 'no person of site.toml'}, and {site.approval.people} persons must approve "
        f"it: another of {', '.join(others)} has to."
    )


def _core(approval: Approval) -> str:
    """Return the signed bytes: code, settings and egress list."""
    return json.dumps([request_sha256(approval.bundle_sha256, approval.settings), egress_hash(approval.egress)])


def decide(home: Path, bundle_sha256: str, settings: Flat, site: SiteConfig) -> Verdict:
    """Decide whether a run may be executed here, by its bundle's hash and all its settings; if not, give the reason.

    Args:
        home: The site's folder.
        bundle_sha256: Hash of the code bundle's bytes.
        settings: All settings of the run.
        site: The site's settings.
    """
    if fault := _fault(settings, site):
        return Verdict(None, fault)
    same_code = [one for one in approvals(home).values() if one.bundle_sha256 == bundle_sha256]
    if not same_code:
        return Verdict(None, f"the bundle {bundle_sha256[:12]} is not approved at this site: approve or ignore it.")
    for approval in same_code:
        if not _differing(settings, approval.settings):
            reason = _unfit(approval, site)
            return Verdict(None if reason else approval, reason)
    key = _differing(settings, same_code[-1].settings)[0]
    got, wanted = settings.get(key, "absent"), same_code[-1].settings.get(key, "absent")
    return Verdict(
        None,
        f"the bundle is approved with {key} = {wanted!r}, the run has {got!r}: approve this value too, or ignore the "
        "run.",
    )


def _unfit(approval: Approval, site: SiteConfig) -> str:
    if (approval.egress.site, approval.egress.modality) != (site.site, site.modality):
        return "the approval belongs to another site: approve the run here."
    return missing_persons(approval, site)


def _fault(settings: Flat, site: SiteConfig) -> str:
    """Return why a run can never be executed here (a lock, no limits, other initial weights); empty if it can."""
    if fault := lock_fault(settings, site.lock):
        return fault
    if not (initial_weights := settings.get(INITIAL_WEIGHTS)):
        return (
            "the run names no initial weights (limits.initial_weights_hash): it was made by an earlier version of "
            "cdtl. Ask the coordinator for a request of this version."
        )
    accepted = site.publish.initial_weights_hash
    if accepted and initial_weights != accepted:
        return (
            f"the run starts from the initial weights {str(initial_weights)[:12]}, "
            "publish.initial_weights_hash in site.toml accepts "
            f"{accepted[:12]} only: ask the coordinator to use those."
        )
    return ""


def lock_fault(settings: Flat, locks: Flat) -> str:
    """Return the first setting that violates a lock of the site, as a sentence; empty if there is none."""
    for key, wanted in locks.items():
        if not _same(settings.get(key), wanted):
            got = settings.get(key, "nothing")
            return f"this site fixes {key} = {wanted!r} and the run has {got!r}: ask the coordinator to change the run."
    return ""


def _differing(settings: Flat, approved: Flat) -> list[str]:
    keys = sorted(settings.keys() | approved.keys())
    return [key for key in keys if key not in settings or not _same(settings[key], approved.get(key))]


def _same(one: object, other: object) -> bool:
    """Compare values; 1 and 1.0 are equal, True equals neither."""
    return one == other and (isinstance(one, bool), isinstance(one, str)) == (
        isinstance(other, bool),
        isinstance(other, str),
    )
