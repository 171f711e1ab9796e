"""`cdtl site approve` and `cdtl site approver`: approvals of runs and keys of approvers."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig
    from cdtl_core.deploy.approvals import Approval
    from cdtl_core.deploy.persons import Signer
    from cdtl_core.deploy.request import ApprovalRequest

__all__ = ["approve", "approver"]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Look for no garbage inside the block: importing torch makes a million objects that stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_without_collector()
def approve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")],
    what: Annotated[str, typer.Argument(metavar="RUN|REQUEST", help="request.json, or a waiting run by name or id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    withdraw: Annotated[bool, typer.Option(help="Withdraw the approval; nothing more of the run is sent.")] = False,
    note: Annotated[str, typer.Option(help="Who approved it and why, for the site's own records.")] = "",
    person: Annotated[str, typer.Option(help="Your name in approval.keys of site.toml.")] = "",
    key: Annotated[Path | None, typer.Option(help="Your key file; the command asks for its passphrase.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON; needs --yes or --withdraw.")] = False,
) -> None:
    """Show a run's code hash, limits, egress list and privacy terms, and put the run on the site's list."""
    from cdtl_core.cli.desk import confirm, print_request
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site, unflatten
    from cdtl_core.deploy.approvals import approve as approve_run
    from cdtl_core.deploy.approvals import lock_fault, missing_persons
    from cdtl_core.deploy.bundle import bundle_sha256, check_carried
    from cdtl_core.deploy.pending import find, request_of
    from cdtl_core.deploy.request import check_request, load_request
    from cdtl_core.errors import PrivacyError

    if json_ and not (yes or withdraw):
        raise typer.BadParameter("--json cannot ask for confirmation: read the request, then add --yes")
    if bool(person) != bool(key):
        raise typer.BadParameter("give --person and --key together")
    request = load_request(Path(what)) if Path(what).is_file() else None
    if withdraw:
        _withdraw(folder, what, request, json_=json_)
        return
    own = load_site(folder / SITE_FILE)
    request = request or request_of(find(folder, what))
    config = unflatten(request.settings)
    check_carried(config, [own.modality])
    typer.echo(
        "Building the initial weights to list the tensors that may leave; this takes up to a minute ...", err=True
    )
    check_request(request)
    if fault := lock_fault(request.settings, own.lock):
        raise PrivacyError(fault)
    same = bundle_sha256(packages=config.plugins) == request.bundle_sha256
    if not json_:
        print_request(request, own)
        _print_comparison(config, same=same)
        confirm("Approve this run at this site?", yes)
    approval = approve_run(folder, request, own, note=note, signer=_signer(person, key))
    missing = missing_persons(approval, own)
    if json_:
        _print_json(approval, request, same=same, missing=missing)
    elif missing:
        typer.echo(f"Signed as {approval.id}, but the run cannot start yet: {missing}")
    else:
        typer.echo(f"Approved as {approval.id}. Withdraw it with: cdtl site approve {folder} {approval.id} --withdraw")


def approver(
    key: Annotated[Path, typer.Argument(metavar="FILE", help="File for the new key; keep it secret.")],
) -> None:
    """Make a person's key for approvals, protected by a passphrase, and print the line for site.toml."""
    from cdtl_core.deploy.persons import make_person_key

    passphrase = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True)
    public = make_person_key(key, passphrase)
    typer.echo(f'Key in {key}. Add to site.toml, with your own name:\n[approval.keys]\n"YOUR NAME" = "{public}"')


def _withdraw(folder: Path, what: str, request: "ApprovalRequest | None", *, json_: bool) -> None:
    from cdtl_core.deploy.approvals import withdraw
    from cdtl_core.deploy.request import request_id

    name = request_id(request.bundle_sha256, request.settings) if request else what
    withdraw(folder, name)
    done = f"{name} is no longer approved; its code does not run here any more."
    typer.echo(json.dumps({"withdrawn": name}, indent=1) if json_ else done)


def _print_comparison(config: "RunConfig", *, same: bool) -> None:
    """Print how initial weights and code compare with those of this site."""
    from cdtl_core.deploy.request import why_unchecked

    if unchecked := why_unchecked(config):
        typer.echo(f"The initial weights are NOT compared with ones of this site: {unchecked}.")
    what = ", ".join(("cdtl", *map(visible, config.plugins)))
    typer.echo(f"The code is {'the same as' if same else 'NOT that of'} the {what} installed here, byte for byte.")


def _signer(person: str, key: Path | None) -> "Signer | None":
    from cdtl_core.deploy.persons import load_signer

    return load_signer(key, person, typer.prompt("Passphrase", hide_input=True, err=True)) if key else None


def _print_json(approval: "Approval", request: "ApprovalRequest", *, same: bool, missing: str) -> None:
    told = {"approved": approval.id, "bundle_sha256": request.bundle_sha256, "same_as_installed": same}
    signed = [one.person for one in approval.signatures]
    egress = approval.egress.model_dump(mode="json")
    typer.echo(json.dumps({**told, "persons": signed, "missing": missing, "egress": egress}, indent=1))
