"""`cdtl site`: commands of a hospital's engineer."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cdtl_core.cli.approving import approve, approver, refuse
from cdtl_core.cli.data import MODALITY_HELP, PATTERN_HELP
from cdtl_core.cli.help import new_app
from cdtl_core.cli.logs import site_app
from cdtl_core.cli.new_site import Asked, has_site, init_site

__all__ = ["app"]

app = new_app("Take part with a hospital's own images.")
app.add_typer(site_app, name="log")
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder; it holds its key and its models.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
SitePart = Annotated[
    Literal["all", "filter", "node"],
    typer.Option(help="filter: holds the key, reaches the coordinator. node: runs approved code. all: both, here."),
]
Server = Annotated[str, typer.Option(help="The coordinator, HOST:PORT; stored in DIR.")]
Authority = Annotated[Path | None, typer.Option(help="The coordinator's ca.crt.")]


@app.command("init")
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The site's name: a-z, 0-9, - and _.")] = "",
    modality: Annotated[str, typer.Option(help=MODALITY_HELP)] = "",
    data: Annotated[Path | None, typer.Option(help="manifest.csv, a folder that holds one, or class folders.")] = None,
    patient_pattern: Annotated[str, typer.Option(help=PATTERN_HELP)] = "",
    labels: Annotated[str, typer.Option(help="The labels that the federation predicts, separated by commas.")] = "",
    positive: Annotated[str, typer.Option(help="The positive label.")] = "",
    unit: Annotated[
        Literal["image", "exam", "patient"] | None,
        typer.Option(help="What has a label, as task.unit of the run; default: as invited, else image."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="YOURS=THEIRS: a label of the images and the federation's word; repeat it."),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A label whose images are left out; repeat it.")] = None,
    invite: Annotated[
        Path | None,
        typer.Option(help="The coordinator's invitation, in place of --name, --labels, --positive, --server and --ca."),
    ] = None,
    phantom: Annotated[int, typer.Option(help="Number of synthetic patients instead of --data, for a trial.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the images, split the patients, make the key, and write site.toml and enrolment.json.

    In a terminal and without options it asks for everything, and checks each answer at once.
    """
    asked = Asked(
        name=name,
        modality=modality,
        data=data,
        patient_pattern=patient_pattern,
        labels=labels,
        positive=positive,
        unit=unit,
        map_=tuple(map_ or ()),
        ignore=tuple(ignore or ()),
        invite=invite,
        phantom=phantom,
    )
    if asked == Asked() and not json_ and sys.stdin.isatty() and sys.stdout.isatty() and not has_site(folder):
        from cdtl_core.cli.site_dialogue import ask_site

        asked = ask_site(folder)
    init_site(folder, asked, json_=json_)


@app.command("check")
def check(
    folder: Folder,
    server: Server = "",
    ca: Authority = None,
    rehearse: Annotated[bool, typer.Option(help="Two tiny rounds against a coordinator on this machine.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything, then rehearse; exit code 7 if something would prevent the site from taking part."""
    from cdtl_core.cli.progress import ending_once, showing_steps
    from cdtl_core.cli.rehearsing import print_checks
    from cdtl_core.deploy.coordinator_address import save_address
    from cdtl_core.deploy.readiness import check_site
    from cdtl_core.errors import FederationError

    if bool(server) != bool(ca):
        raise typer.BadParameter("give --server and --ca together")
    if server and ca:
        save_address(folder, server, ca)
    with ending_once(), showing_steps() as tell:
        found = check_site(folder, rehearse=rehearse, tell=tell)
    typer.echo(json.dumps(found, indent=1)) if json_ else print_checks(found)
    if any(one["state"] == "wrong" for one in found["checks"]):
        raise typer.Exit(FederationError.exit_code)


app.command("approve")(approve)
app.command("refuse")(refuse)
app.command("approver")(approver)


@app.command("start")
def start(folder: Folder, server: Server = "", ca: Authority = None, part: SitePart = "all") -> None:
    """Take part, in the foreground; all connections go out to the coordinator."""
    from cdtl_core.deploy.coordinator_address import save_address
    from cdtl_core.deploy.participation import serve_site

    if bool(server) != bool(ca):
        raise typer.BadParameter("give --server and --ca together")
    if server and ca and part != "node":  # the node never reaches the coordinator; both may start at the same moment
        save_address(folder, server, ca)
    serve_site(folder, part)


@app.command("stop")
def stop(folder: Folder) -> None:
    """End the site's service, filter and node; it can be started again."""
    from cdtl_core.deploy.service import stop_service

    stopped = [stop_service(part) for part in (folder / "node", folder)]
    typer.echo("Stopped." if any(stopped) else "The site is not running.")


@app.command("renew")
def renew(folder: Folder) -> None:
    """Make a new key and certificate, vouched for by the present key; a running site changes over automatically."""
    from cdtl_core.deploy.renewing import request_renewal

    typer.echo(f"Send {request_renewal(folder)} to the coordinator; no telephone call is needed.")
    typer.echo("The site changes to the new key automatically once the coordinator has admitted it.")


@app.command("leave")
def leave(folder: Folder, yes: Yes = False) -> None:
    """Leave the federation: end the service, withdraw every approval, remove the coordinator's address."""
    from cdtl_core.cli.parties import confirm
    from cdtl_core.deploy.leaving import leave_federation

    confirm("Leave? Nothing more is trained or sent; the models stay here.", yes)
    kept = leave_federation(folder)
    typer.echo(f"Left. Ask the coordinator to revoke this site. Kept: {', '.join(kept) or 'nothing'} in {folder}.")


@app.command("status")
def status(
    folder: Folder,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    part: SitePart = "all",
) -> None:
    """Show whether the site runs and is connected, and its approvals; exit code 7 if it does not run."""
    from cdtl_core.cli.parties import print_node, print_site
    from cdtl_core.deploy.status import node_status, site_status
    from cdtl_core.errors import FederationError

    found = node_status(folder) if part == "node" else site_status(folder)
    if json_:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_node(found) if part == "node" else print_site(found)
    if not found["running"]:
        raise typer.Exit(FederationError.exit_code)


@app.command("desk")
def desk(
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Open the link in this machine's browser.")] = False,
    minutes: Annotated[float, typer.Option(min=1, max=480, help="Minutes without use that end a session.")] = 30,
) -> None:
    """Serve the site's desk for a browser on this machine, until Ctrl-C; the link it prints opens it once."""
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site

    load_site(folder / SITE_FILE)
    from cdtl_core.desk.serving import serve_desk
    from cdtl_core.desk.site import site_desk

    make = partial(site_desk, folder.absolute())
    serve_desk(make, port=port, minutes=minutes, open_browser=open_, tell=typer.echo)


@app.command("unit")
def unit(
    folder: Folder,
    user: Annotated[str, typer.Option(help="Account that runs it, not root.")] = "cdtl",
    part: SitePart = "all",
    node_user: Annotated[str, typer.Option(help="Account that runs approved code, with --part.")] = "cdtl-node",
) -> None:
    """Print a systemd unit that keeps the site running; with --part one of two units, for two accounts."""
    from cdtl_core.deploy.systemd import filter_unit, node_unit, unit_text

    if part == "all":
        typer.echo(unit_text("site", folder.absolute(), user), nl=False)
    else:
        text = (filter_unit if part == "filter" else node_unit)(folder.absolute(), user, node_user)
        typer.echo(text, nl=False)
