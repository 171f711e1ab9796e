"""`cdtl paper`: a table of models over one site's images, split by image and by patient."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["paper"]


def paper(
    config: Annotated[
        Path | None, typer.Argument(help="A .toml file with a [paper] table, or the shipped one: paper.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: key=value, e.g. data.root=FOLDER.")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Rows to play, e.g. 'U-Net,CDTL'; default all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default runs/<name>, numbered.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a table to continue, or to report again.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Cells at a time, each on one core; default: the cores.", min=1)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print table.json instead of the tables.")] = False,
) -> None:
    """Train the models of CONFIG's [paper] table and print their figures for the leaky and the grouped split."""
    from cdtl_core.cli.cells import showing_cells
    from cdtl_core.cli.model_table import print_models
    from cdtl_core.cli.progress import resumable
    from cdtl_core.config.folders import new_folder
    from cdtl_core.config.settings import load_config
    from cdtl_core.system.program import num_cores

    if (config is None) == (resume is None):
        raise typer.BadParameter("give a CONFIG to start, or --resume DIR to continue (not both)")
    if resume is not None and any(value is not None for value in (set_, rows, out)):
        raise typer.BadParameter(
            "--resume continues with the table's own settings: remove all options but --jobs and --json"
        )
    from cdtl_core.simulation.table import paper as room

    if config is not None:
        settings = load_config(config, set_ or ())
        if rows is not None:
            settings = room.only_rows(settings, [part.strip() for part in rows.split(",")])
        folder = out or new_folder(Path("runs"), settings.run.name)
        play = partial(room.play_table, settings, folder, jobs=jobs or num_cores())
    else:
        folder = resume or Path()
        play = partial(room.resume_table, folder, jobs=jobs or num_cores())
    with resumable("cdtl paper", folder), showing_cells():
        result = play()
    if json_:
        typer.echo(result.model_dump_json(indent=1))
    else:
        print_models(result, folder)
