"""`cdtl site approve`, `refuse` and `approver`: decisions about runs, and keys of approvers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cdtl_core.config import SiteConfig
    from cdtl_core.deploy.approval_list import Approval
    from cdtl_core.deploy.persons import Signer
    from cdtl_core.deploy.request import ApprovalRequest
    from cdtl_core.deploy.terms import Terms

__all__ = ["approve", "approver", "refuse"]


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
    from cdtl_core.cli.parties import confirm
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.approvals import approve as approve_run
    from cdtl_core.deploy.approvals import missing_persons
    from cdtl_core.deploy.pending import find, request_of
    from cdtl_core.deploy.request import load_request
    from cdtl_core.deploy.terms import examine

    if json_ and not (yes or withdraw):
        raise typer.BadParameter("--json cannot ask for confirmation: read the request, then add --yes")
    if bool(person) != bool(key):
        raise typer.BadParameter("give --person and --key together")
    request = load_request(Path(what)) if Path(what).is_file() else None
    if withdraw:
        _withdraw(folder, what, request, note, json_=json_)
        return
    own = load_site(folder / SITE_FILE)
    request = request or request_of(find(folder, what))
    typer.echo(
        "Building the initial weights to list the tensors that may leave; this takes up to a minute ...", err=True
    )
    terms = examine(request, own)
    if not json_:
        _print_terms(folder, terms, own)
        confirm("Approve this run at this site?", yes)
    approval = approve_run(folder, request, own, note=note, signer=_signer(person, key))
    missing = missing_persons(approval, own)
    if json_:
        _print_json(approval, request, same=terms.same_code, missing=missing)
    elif missing:
        typer.echo(f"Signed as {approval.id}, but the run cannot start yet: {missing}")
    else:
        typer.echo(f"Approved as {approval.id}. Withdraw it with: cdtl site approve {folder} {approval.id} --withdraw")


def refuse(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")],
    what: Annotated[str, typer.Argument(metavar="RUN|REQUEST", help="request.json, or a waiting run by name or id.")],
    note: Annotated[str, typer.Option(help="Who refused it and why, for the site's own records.")],
) -> None:
    """Refuse a run: it no longer waits for an approval, and approvals of it by others are withdrawn."""
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.pending import find_run
    from cdtl_core.deploy.refusing import refuse as refuse_run

    load_site(folder / SITE_FILE)
    id, name = find_run(folder, what)
    refuse_run(folder, id, name, note=note)
    typer.echo(f"{id} is refused; its code does not run here. cdtl site approve can still approve it.")


def approver(
    key: Annotated[Path, typer.Argument(metavar="FILE", help="File for the new key; keep it secret.")],
) -> None:
    """Make a person's key for approvals, protected by a passphrase, and print the line for site.toml."""
    from cdtl_core.deploy.persons import make_person_key

    passphrase = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True)
    public = make_person_key(key, passphrase)
    typer.echo(f'Key in {key}. Add to site.toml, with your own name:\n[approval.keys]\n"YOUR NAME" = "{public}"')


def _withdraw(folder: Path, what: str, request: "ApprovalRequest | None", note: str, *, json_: bool) -> None:
    from cdtl_core.deploy.approval_list import withdraw
    from cdtl_core.deploy.request import request_id

    name = request_id(request.bundle_sha256, request.settings) if request else what
    withdraw(folder, name, note=note)
    done = f"{name} is no longer approved; its code does not run here any more."
    typer.echo(json.dumps({"withdrawn": name}, indent=1) if json_ else done)


def _print_terms(folder: Path, terms: "Terms", own: "SiteConfig") -> None:
    from cdtl_core.cli.parties import print_request
    from cdtl_core.deploy.terms import budget_text

    print_request(terms.request, own)
    for sentence in terms.sentences:
        typer.echo(sentence)
    if budget := budget_text(folder, terms.config, own):
        typer.echo(f"Privacy budget: {budget}")


def _signer(person: str, key: Path | None) -> "Signer | None":
    from cdtl_core.deploy.persons import load_signer

    return load_signer(key, person, typer.prompt("Passphrase", hide_input=True, err=True)) if key else None


def _print_json(approval: "Approval", request: "ApprovalRequest", *, same: bool, missing: str) -> None:
    told = {"approved": approval.id, "bundle_sha256": request.bundle_sha256, "same_as_installed": same}
    signed = [one.person for one in approval.signatures]
    egress = approval.egress.model_dump(mode="json")
    typer.echo(json.dumps({**told, "persons": signed, "missing": missing, "egress": egress}, indent=1))
