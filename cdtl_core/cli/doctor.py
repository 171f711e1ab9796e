"""`cdtl doctor`: checks whether this machine is fit for cdtl."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of future runs, or of a site.")] = Path(),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of a future coordinator.")] = 8443,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the device; its check takes seconds.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, device, disk, ports and clock; exit code 1 if something is wrong. Sends nothing."""
    from cdtl_core.cli.rehearsing import print_checks
    from cdtl_core.deploy.doctor import examine_machine
    from cdtl_core.errors import CdtlError

    found = examine_machine(folder, port, quick=quick)
    typer.echo(json.dumps(found, indent=1)) if json_ else print_checks({**found, "rehearsal": None})
    if any(one["state"] == "wrong" for one in found["checks"]):
        raise typer.Exit(CdtlError.exit_code)
