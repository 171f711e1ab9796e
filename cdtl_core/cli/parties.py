"""Texts for coordinator and site: contracts, requests and status on the terminal."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.table import Table

from cdtl_core.cli.screen import open_console
from cdtl_core.config.settings import unflatten
from cdtl_core.errors import FederationError
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import SiteConfig
    from cdtl_core.deploy.request import ApprovalRequest
    from cdtl_core.federation.contract import ModalityContract
    from cdtl_core.federation.egress import EgressManifest

__all__ = [
    "confirm",
    "print_contract",
    "print_coordinator",
    "print_egress",
    "print_node",
    "print_request",
    "print_site",
]

_MOST = 2000  # characters of a setting, or of the reason of an end: a list of all sites fits


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation, unless `yes`.

    Raises:
        FederationError: The answer is no.
    """
    if not yes and not typer.confirm(question):
        raise FederationError("not confirmed, so nothing was done: run the command again to confirm.")


def print_contract(contract: "ModalityContract", fingerprint: str) -> None:
    """Print a site's modality contract and its key's fingerprint."""
    typer.echo(
        f"Site {contract.site}: {contract.modality}, about {contract.patients} patients, {contract.channels} ch.,"
    )
    labels = ", ".join(map(visible, contract.labels))
    typer.echo(f"  {contract.bit_depth} bits; labels {labels} (positive: {visible(contract.positive)})")
    if contract.unit != "image":
        typer.echo(f"  one label for each {contract.unit}")
    if contract.label_map:
        pairs = [f"{visible(a)} -> {visible(b) or 'left out'}" for a, b in contract.label_map.items()]
        typer.echo(f"  its own labels: {', '.join(pairs)}")
    if contract.statistics:
        typer.echo(f"  pixel mean {contract.statistics.mean}, standard deviation {contract.statistics.std}")
    typer.echo(f"Key fingerprint (SHA-256):\n  {fingerprint}")


def print_request(request: "ApprovalRequest", own: "SiteConfig | None" = None) -> None:
    """Print a run's code and settings and what it asks of a site; with `own`, of this site."""
    from cdtl_core.deploy.terms import changed_settings, limits_text, privacy_text

    settings = request.settings
    typer.echo(
        f"Run {request.name}: {settings['method']}, {settings['federation.rounds']} rounds, cdtl {request.cdtl_version}"
    )
    typer.echo(f"Sites: {', '.join(request.sites) or 'any'}")
    changed = changed_settings(settings)
    told = "; ".join(f"{visible(key)} = {visible(value, _MOST)}" for key, value in changed.items())
    typer.echo(f"Settings that differ from the defaults: {told or 'none'}")
    typer.echo(f"Bundle (SHA-256): {request.bundle_sha256}")
    if packages := unflatten(settings).plugins:
        typer.echo(f"The bundle also holds code of others: {', '.join(map(visible, packages))}")
    typer.echo(f"Limits: {limits_text(unflatten(settings))}")
    print_egress(request.egress)
    typer.echo(f"Differential privacy: {privacy_text(unflatten(settings), own)}")


def print_egress(egress: "EgressManifest") -> None:
    """Print everything that may leave a site."""
    typer.echo("What may leave a site, and nothing else:")
    for kind, rule in egress.replies.items():
        for record, tensors in rule.arrays.items():
            dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors.values()}))
            size = f"{rule.total_bytes / 1e6:.2f} MB"
            typer.echo(f"  {kind}: {record}: {len(tensors)} tensors ({dtypes}), {size} a message")
        for records in (rule.metrics, rule.configs):
            for record, names in records.items():
                told = [f"{visible(name)} ({rule})" if str(rule) else visible(name) for name, rule in names.items()]
                typer.echo(f"  {kind}: {record}: {', '.join(told)}")


def print_coordinator(found: Mapping[str, Any]) -> None:
    """Print the status of a coordinator."""
    typer.echo(f"Coordinator {', '.join(found['names'])} port {found['port']}: {_running(found)}")
    if found["loopback_warning"]:
        typer.echo(visible(found["loopback_warning"], _MOST))
    if replaced := found["database_replaced"]:
        typer.echo(
            f"Flower's database was replaced {_ago(replaced['time']).removeprefix('last seen ')}: "
            f"{visible(replaced['why'], _MOST)}. Sites connect again by themselves; a run continues from its last "
            "complete round."
        )
    typer.echo(f"TLS certificate until {found['certificate_expires'][:10]}")
    _print_notices(found)
    table = Table("site", "modality", "patients", "state", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, site in found["sites"].items():
        state = "revoked" if site["revoked"] else "connected" if site["connected"] else _ago(site["last_seen"])
        table.add_row(visible(name), visible(site["modality"]), f"~{site['patients']}", state)
    console = open_console()
    console.print(table) if found["sites"] else typer.echo("No site is admitted yet.")
    for run in found["runs"]:
        place = f", round {run['round']} of {run['rounds']}" if run["rounds"] else ""
        why = f": {visible(run['reason'], _MOST)}" if run["reason"] else ""
        typer.echo(f"Run {run['name']}: {run['status']}{place}{why}")
        for site, why in run["waiting"].items() if run["status"] == "running" else ():
            typer.echo(f"  waits for {visible(site)}: {visible(why)}")


def print_site(found: Mapping[str, Any]) -> None:
    """Print the status of a site."""
    typer.echo(f"Site {found['site']} ({found['modality']}): {_running(found)}")
    coordinator = found["coordinator"]
    if coordinator:
        link = "connecting" if found["connecting"] else f"not connected ({_ago(found['last_contact'])})"
        link = "connected" if found["connected"] else link
        typer.echo(f"Coordinator {coordinator['host']}:{coordinator['port']}: {link}")
    _print_separation(found)
    _print_notices(found)
    for kind in ("last_fault", "last_refusal"):
        if found[kind] and not found["connected"]:
            typer.echo(f"Last {kind.removeprefix('last_')}: {visible(found[kind]['why'])}")
    _print_runs(found)
    if found["privacy"]:
        typer.echo(f"Privacy of each patient: {visible(found['privacy'])}")
    for name in found["models"]:
        typer.echo(f"Model: models/{visible(name)}")


def print_node(found: Mapping[str, Any]) -> None:
    """Print the status of a site's node that was started separately from the filter."""
    typer.echo(f"Node: {_running(found)}")
    _print_separation(found)


def _print_notices(found: Mapping[str, Any]) -> None:
    for text in found["notices"]:
        typer.echo(visible(text, _MOST))


def _print_separation(found: Mapping[str, Any]) -> None:
    if found["separation"]:
        typer.echo(f"Separation: {visible(found['separation'])}")


def _print_runs(found: Mapping[str, Any]) -> None:
    """Print the approved, partly approved, pending and refused runs of a site."""
    for name, run in found["approved"].items():
        typer.echo(f"Approved: {name} ({visible(run)}): {visible(found['used'][name], _MOST)}")
    for name, why in found["half_approved"].items():
        typer.echo(f"Needs another person's approval: {name}: {visible(why, _MOST)}")
    for what in found["pending"].values():
        typer.echo(f"Waits for your approval: {visible(what, _MOST)}")
    for name, what in found["refused"].items():
        typer.echo(f"Refused: {name} ({visible(what, _MOST)})")


def _running(found: Mapping[str, Any]) -> str:
    """Return whether a service runs; a part of it that does not is on a line of its own."""
    if not found["running"]:
        return "not running"
    parts = [f"\n  its {name} does not run: {visible(why, _MOST)}" for name, why in found["troubles"].items()]
    return f"running, process {found['pid']}{''.join(parts)}"


def _ago(moment: float | None) -> str:
    if not moment:
        return "never seen"
    minutes = (time.time() - moment) / 60
    return f"last seen {minutes:.0f} min ago" if minutes < 120 else f"last seen {minutes / 60:.0f} h ago"
