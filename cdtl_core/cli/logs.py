"""`cdtl site log` and `cdtl server log`: verification of the chained logs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtl_core.cli.help import new_app

if TYPE_CHECKING:
    from cdtl_core.deploy.log_check import Checked
    from cdtl_core.system.chained import Head, LogFiles

__all__ = ["server_app", "site_app"]

site_app = new_app("Verify the site's logs.")
server_app = new_app("Verify the coordinator's logs.")
Noted = Annotated[
    list[str] | None,
    typer.Option("--noted", help="A head that was printed earlier and stored elsewhere; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@site_app.command("verify")
def verify_site(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")],
    noted: Noted = None,
    json_: Json = False,
) -> None:
    """Verify the logs of approvals and egress; exit code 6 if a line was altered, removed, added or moved."""
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.records import site_logs

    load_site(folder / SITE_FILE)
    _verify(site_logs(folder), noted or [], json_)


@server_app.command("verify")
def verify_server(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")],
    noted: Noted = None,
    json_: Json = False,
) -> None:
    """Verify the access log; exit code 6 if a line was altered, removed, added or moved."""
    from cdtl_core.deploy.records import server_logs
    from cdtl_core.deploy.server_config import load_server

    load_server(folder)
    _verify(server_logs(folder), noted or [], json_)


def _verify(logs: "Mapping[str, LogFiles]", noted: Sequence[str], json_: bool) -> None:
    from cdtl_core.deploy.log_check import check_log
    from cdtl_core.errors import CheckpointError

    heads = _heads(noted, logs)
    try:
        found = {name: check_log(files, noted=heads.get(name)) for name, files in logs.items()}
    except OSError as error:
        raise CheckpointError(
            f"{error.filename} cannot be read ({error.strerror}): run this as the service's account."
        ) from None
    if json_:
        typer.echo(json.dumps({name: _told(name, one) for name, one in found.items()}, indent=1))
    else:
        for name, one in found.items():
            _print(name, one)
        typer.echo(
            "Store the heads outside this machine and give them next time with --noted: an attacker with the service's "
            "account can write a whole log again, and only an earlier head shows this."
        )
    if any(one.faults for one in found.values()):
        raise typer.Exit(CheckpointError.exit_code)


def _heads(noted: Sequence[str], logs: "Mapping[str, LogFiles]") -> "dict[str, Head]":
    from cdtl_core.system.chained import Head

    heads = {}
    for text in noted:
        name, _, rest = text.partition(":")
        number, _, digest = rest.partition(":")
        if name not in logs or not number.isdigit() or len(digest) != 64:
            raise typer.BadParameter(f"--noted {text}: give a head as this command prints it, NAME:NUMBER:HASH")
        heads[name] = Head(int(number), digest)
    return heads


def _told(name: str, one: "Checked") -> dict[str, Any]:
    head = f"{name}:{one.head.seq}:{one.head.hash}" if one.lines else None
    return {
        "lines": one.lines, "dropped": one.dropped, "head": head, "faults": one.faults, "remarks": one.remarks,
    }  # fmt: skip


def _print(name: str, one: "Checked") -> None:
    verdict = f"{len(one.faults)} FAULTS" if one.faults else "whole" if one.lines else "no line yet"
    dropped = f", {one.dropped:,} older ones dropped by rotation" if one.dropped else ""
    typer.echo(f"{name}: {verdict}; {one.lines:,} lines{dropped}")
    for text in (*one.faults, *one.remarks):
        typer.echo(f"  {text}")
    if one.lines:
        typer.echo(f"  head {name}:{one.head.seq}:{one.head.hash}")
