"""`cdtl report`: the results of a run for each site, as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run directory, a coordinator's folder or run, or a site's folder.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write; default DIR/report.html.")] = None,
    site: Annotated[str, typer.Option(help="A site of a simulation: its own report, with example images.")] = "",
    run: Annotated[str, typer.Option(help="The run of a coordinator or a site; default: the newest.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print the file's path and its contents as JSON.")] = False,
) -> None:
    """Write the report of a run as one file that loads nothing. Only a site's own report shows images.

    The terminal shows each site's gain over local training.
    """
    import json

    from cdtl_core.errors import CheckpointError
    from cdtl_core.system.durable import replace_bytes

    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give a run directory, a coordinator's folder or a site's.")
    from cdtl_core.report.find import page_of, report_path
    from cdtl_core.report.page import headlines_of, page_html

    page = page_of(folder, site=site, run=run)
    target = out or report_path(folder, site=site, run=run)
    content = page_html(page).encode()
    replace_bytes(target, content)
    empty = [section.id for section in page.sections if not section.blocks]
    if json_:
        typer.echo(json.dumps({"report": str(target), "bytes": len(content), "without_material": empty}, indent=1))
    else:
        for line in headlines_of(page):
            typer.echo(line)
        typer.echo(f"{target} ({len(content) / 1e6:.1f} MB). {page.keep}")
