"""`cdtl server`: commands of the coordinator."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cdtl_core.cli.help import new_app
from cdtl_core.cli.logs import server_app
from cdtl_core.system.foreign import visible

__all__ = ["app"]

app = new_app("Coordinate a federation.")
app.add_typer(server_app, name="log")
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


@app.command("init")
def init(
    folder: Folder,
    name: Annotated[
        list[str], typer.Option(help="Name or address under which sites reach this machine; may be repeated.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The only public port.")] = 8443,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104
    authority_key: Annotated[
        Path | None, typer.Option(help="Write the authority's key to this file, for example on a removable medium.")
    ] = None,
) -> None:
    """Make a coordinator: its certificate authority, TLS certificate and settings."""
    from cdtl_core.deploy.authority import make_coordinator
    from cdtl_core.deploy.server_config import ServerConfig

    key = make_coordinator(folder, ServerConfig(names=tuple(name), host=host, port=port), key=authority_key)
    typer.echo(f"Coordinator in {folder}. Keep {key} secret; only cdtl server renew needs it.")
    typer.echo(f"Next: cdtl server start {folder}, and for each hospital: cdtl server invite {folder} NAME")


@app.command("renew")
def renew(
    folder: Folder,
    authority_key: Annotated[Path | None, typer.Option(help="The authority's key, if it is stored elsewhere.")] = None,
    new_authority: Annotated[
        bool, typer.Option(help="Make a new authority only; sites must get ca.crt before the next renewal.")
    ] = False,
) -> None:
    """Issue a new TLS certificate with a new key, for the names in server.toml; sites keep the same ca.crt."""
    from cdtl_core.deploy.authority import renew_server, replace_authority
    from cdtl_core.deploy.server_config import load_server

    config, ca = load_server(folder), folder / "tls" / "ca.crt"
    if new_authority:
        replace_authority(folder, config, key=authority_key)
        typer.echo(f"Send {ca} to every site: it holds the new and the previous authority. Nothing else has changed.")
        typer.echo(f"When all sites have it: cdtl server renew {folder}")
        return
    renew_server(folder, config, key=authority_key)
    typer.echo("Renewed; a running coordinator uses it for new connections at once.")


@app.command("start")
def start(folder: Folder) -> None:
    """Run the coordinator in the foreground; an interrupted run continues."""
    from cdtl_core.deploy.front import open_front

    with open_front(folder) as front:
        from cdtl_core.deploy.coordination import serve_coordinator  # starts threads, so after the isolation

        serve_coordinator(front)


@app.command("stop")
def stop(
    folder: Folder,
    run: Annotated[str, typer.Option(help="End only this run; the coordinator keeps running.")] = "",
) -> None:
    """End the coordinator, or with --run one run."""
    from cdtl_core.deploy.runs import stop_run
    from cdtl_core.deploy.service import stop_service

    if run:
        stop_run(folder, run)
        typer.echo(f"Run {run} is being stopped; cdtl server run continues it.")
    else:
        typer.echo("Stopped." if stop_service(folder) else "The coordinator is not running.")


@app.command("invite")
def invite(
    folder: Folder,
    site: Annotated[str, typer.Argument(metavar="NAME", help="The site's name: a-z, 0-9, - and _.")],
    config: Annotated[
        Path | None,
        typer.Option(help="The study's .toml file, whose [task] names the labels; default: benign, malignant."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default DIR/invitations/NAME.json.")] = None,
) -> None:
    """Write one file from which a hospital takes your address, authority and labels. It holds nothing secret."""
    from cdtl_core.config import TaskConfig
    from cdtl_core.config.settings import load_run
    from cdtl_core.deploy.invitation import make_invitation, save_invitation
    from cdtl_core.system.shipped import find_config

    invitation = make_invitation(folder, site, load_run(find_config(config)).task if config else TaskConfig())
    target = out or folder / "invitations" / f"{site}.json"
    save_invitation(target, invitation)
    task = invitation.task
    typer.echo(f"Invitation of {site} to {invitation.host}:{invitation.port}, valid until {invitation.until:%Y-%m-%d}.")
    labels = f"{', '.join(map(visible, task.labels))} (positive: {visible(task.positive)})"
    typer.echo(f"Labels: {labels}{f', one for each {task.unit}' if task.unit != 'image' else ''}")
    typer.echo(
        f"Send {target}. It holds nothing secret, but it must arrive unaltered: call the hospital at a number that"
    )
    typer.echo(f"you know from another source, and let it compare this fingerprint:\n  {invitation.fingerprint}")
    typer.echo(f"There: cdtl site init {site}-site --invite {target.name} --modality MODALITY --data IMAGES")


@app.command("admit")
def admit(
    folder: Folder,
    enrolment: Annotated[Path, typer.Argument(help="The enrolment.json or renewal.json that the site sent.")],
    yes: Yes = False,
) -> None:
    """Show a site's contract and its key's fingerprint, and admit the site after confirmation."""
    from cdtl_core.cli.parties import confirm, print_contract
    from cdtl_core.deploy.enrolment import load_enrolment
    from cdtl_core.deploy.members import admit as admit_site
    from cdtl_core.deploy.members import renew as renew_site
    from cdtl_core.deploy.renewal import is_renewal, load_renewal
    from cdtl_core.deploy.server_config import load_server

    load_server(folder)
    if is_renewal(enrolment):
        renewed = load_renewal(enrolment, folder)
        print_contract(renewed.contract, renewed.fingerprint)
        confirm("The site's known key vouches for this one. Let the site change to it?", yes)
        former = renew_site(folder, renewed).former
        until = f" until {former.valid_until:%Y-%m-%d}" if former else ""
        typer.echo(f"{renewed.site} has a new key; its former key is also valid{until}.")
        return
    found = load_enrolment(enrolment)
    print_contract(found.contract, found.fingerprint)
    confirm("Did the site read out the same fingerprint by telephone? Admit it?", yes)
    admit_site(folder, found)
    typer.echo(f"{found.site} is admitted; a running coordinator accepts it at once.")


@app.command("revoke")
def revoke(folder: Folder, site: Annotated[str, typer.Argument(help="The site's name.")]) -> None:
    """Refuse all further requests of a site."""
    from cdtl_core.deploy.members import revoke as revoke_site
    from cdtl_core.deploy.server_config import load_server

    load_server(folder)
    revoke_site(folder, site)
    typer.echo(f"{site} is revoked; its next request is refused.")


@app.command("run")
def run(
    folder: Folder,
    config: Annotated[Path, typer.Argument(help="A .toml file, or the name of a shipped one.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: key=value.")] = None,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
) -> None:
    """Build the bundle, show its hash and what sites will send, wait for approvals, train."""
    from cdtl_core.cli.asking import ask_for_run, follow_to_end
    from cdtl_core.cli.follow import print_result
    from cdtl_core.config.settings import load_run
    from cdtl_core.deploy.server_config import load_server
    from cdtl_core.deploy.service import require_running
    from cdtl_core.system.shipped import find_config

    load_server(folder)
    settings = load_run(find_config(config), set_ or [], deployed=True)
    from cdtl_core.deploy.preparing import finished_run

    if place := finished_run(folder, settings):
        print_result(place)
        typer.echo(f"It is not played again. For another run choose another name: --set name={settings.name}-2")
        return
    require_running(folder, "coordinator", f"cdtl server start {folder}")
    place = ask_for_run(folder, settings, yes=yes)
    if wait:
        raise typer.Exit(follow_to_end(folder, place, config))


@app.command("status")
def status(folder: Folder, json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show whether the coordinator runs, its sites and the run's progress; exit code 7 if it does not run."""
    from cdtl_core.cli.parties import print_coordinator
    from cdtl_core.deploy.status import coordinator_status
    from cdtl_core.errors import FederationError

    found = coordinator_status(folder)
    typer.echo(json.dumps(found, indent=1)) if json_ else print_coordinator(found)
    if not found["running"]:
        raise typer.Exit(FederationError.exit_code)


@app.command("desk")
def desk(
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Open the link in this machine's browser.")] = False,
    minutes: Annotated[float, typer.Option(min=1, max=480, help="Minutes without use that end a session.")] = 30,
) -> None:
    """Serve the coordinator's desk for a browser on this machine, until Ctrl-C; the link it prints opens it once."""
    from cdtl_core.deploy.server_config import load_server

    load_server(folder)
    from cdtl_core.desk.server import server_desk
    from cdtl_core.desk.serving import serve_desk

    make = partial(server_desk, folder.absolute())
    serve_desk(make, port=port, minutes=minutes, open_browser=open_, tell=typer.echo)


@app.command("page")
def page(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder, or any run directory.")],
    run: Annotated[str, typer.Option(help="Which run; default the newest.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen on; default: loopback.")] = "127.0.0.1",
) -> None:
    """Serve the report of a run, updated after each round, until Ctrl-C. It shows no image and no score."""
    from cdtl_core.errors import ConfigError

    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give a coordinator's, or a run directory.")
    from cdtl_core.report.live import server_of
    from cdtl_core.report.serve import is_loopback

    with server_of(folder, host=host, port=port, run=run) as server:
        if not is_loopback(host):
            typer.echo("Everyone who reaches this address can read the page: there is no password.", err=True)
        typer.echo(f"{server.url} (Ctrl-C ends it)")
        server.serve_forever(0.2)


@app.command("unit")
def unit(folder: Folder, user: Annotated[str, typer.Option(help="Account that runs it, not root.")] = "cdtl") -> None:
    """Print a systemd unit that keeps the coordinator running."""
    from cdtl_core.deploy.systemd import unit_text

    typer.echo(unit_text("server", folder.absolute(), user), nl=False)
