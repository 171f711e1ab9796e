"""The `cdtl` command: thread settings, imports inside the commands, errors as one sentence. Typer ends at Ctrl-C."""

import errno
import faulthandler
import sys
import traceback
from functools import cache
from typing import NoReturn

import click
import typer

from cdtl_core import __version__
from cdtl_core.cli import (
    audit,
    compare,
    config,
    data,
    doctor,
    model,
    paper,
    predict,
    privacy,
    report,
    server,
    simulate,
    site,
)
from cdtl_core.cli.help import new_app
from cdtl_core.cli.screen import guarded_screen
from cdtl_core.cli.trying import try_federation
from cdtl_core.errors import CdtlError
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.foreign import visible
from cdtl_core.system.program import end_program, set_program_defaults

__all__ = ["DISK_FAULTS", "main", "program"]

_MOST = 2000  # characters of an error: one sentence, with a list of sites or files at most
DISK_FAULTS = {errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}

app = new_app(
    "Train an image classifier across hospitals with different imaging modalities; no image leaves a site.",
    name="cdtl",
)
app.command("try")(try_federation)
app.command("simulate")(simulate.simulate)
app.command("compare")(compare.compare)
app.command("paper")(paper.paper)
app.command("predict")(predict.predict)
app.command("report")(report.report)
app.add_typer(model.app, name="model")
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
privacy.app.command("audit")(audit.audit)
app.add_typer(privacy.app, name="privacy")
app.add_typer(server.app, name="server")
app.add_typer(site.app, name="site")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(f"cdtl {__version__}")
        raise typer.Exit


@cache
def _command() -> click.Command:
    """Return the command with all its groups; building it takes a twentieth of a second."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; exit with the error's code (0 without error)."""
    set_program_defaults()
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # a library that crashes says in which line of Python
    with guarded_screen():
        try:
            _command()()
        except CdtlError as error:
            print(f"Error: {visible(error, _MOST)}", file=sys.stderr)
            sys.exit(error.exit_code)
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                traceback.print_exc()
                sys.exit(CdtlError.exit_code)
            fault = disk_fault(error)
            print(f"Error: {visible(fault, _MOST)}", file=sys.stderr)
            sys.exit(fault.exit_code)
        except Exception:
            traceback.print_exc()  # here, while the screen is guarded
            sys.exit(CdtlError.exit_code)


def program() -> NoReturn:
    """Be the installed command: as `main`, and end the process at once."""
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        end_program(end.code)
    end_program(0)


if __name__ == "__main__":
    program()
