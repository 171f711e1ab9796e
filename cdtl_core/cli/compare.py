"""`cdtl compare`: methods and controls on the same patients, with intervals and claims."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from cdtl_core.results.comparison import Comparison

__all__ = ["compare"]

_METHODS = "alone,fedbn,cdtl,cdtl:shuffled"


def compare(
    config: Annotated[
        Path | None, typer.Argument(help="A .toml file, or a shipped one: demo, tiny, breast, phantoms, scarce.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: key=value, e.g. train.lr=0.001.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help=f"Methods, and controls such as METHOD:shuffled; default {_METHODS}.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of draws of folds and patients; default 5.")] = None,
    patients: Annotated[
        str | None, typer.Option(help="Training patients at the receiver, e.g. 20,50,all; default all.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Receivers: each is tested, and reduced to --patients, on its own; default every site."),
    ] = None,
    donors: Annotated[
        str | None,
        typer.Option(help="Sets of donors: other (of other modalities), all (other sites); default all."),
    ] = None,
    sites: Annotated[str | None, typer.Option(help="Sites that take part; default all of the configuration.")] = None,
    folds: Annotated[int | None, typer.Option(help="Folds of the receiver's patients; default 5.")] = None,
    runs: Annotated[
        int | None, typer.Option(help="Trainings of the same patients, their scores averaged; default 1.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default runs/<name>-compare, numbered.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a study to continue, or to report again.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Cells at a time, each on one core; default: the cores.", min=1)
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="ray: the Ray cluster at --address plays the cells.")
    ] = "processes",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Head of the Ray cluster; auto: that of this machine.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Play part I of N, beside other jobs with the same --out; the last combines."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print compare.json instead of the table.")] = False,
) -> None:
    """Compare METHODS at the sites of CONFIG: each receiver's gain over local training, with intervals."""
    from cdtl_core.cli.cells import showing_cells
    from cdtl_core.cli.comparison_table import print_comparison
    from cdtl_core.cli.progress import resumable
    from cdtl_core.config.folders import new_folder
    from cdtl_core.config.settings import load_config

    if (config is None) == (resume is None):
        raise typer.BadParameter("give a CONFIG to start, or --resume DIR to continue (not both)")
    _check_place(engine, address, shard, jobs, out)
    counts = {"seeds": seeds, "folds": folds, "runs": runs}
    own = (set_, methods, seeds, patients, target, donors, sites, folds, runs, out)
    if resume is not None and any(value is not None for value in own):
        raise typer.BadParameter(
            "--resume continues with the study's own settings: remove all options but --jobs, --engine, --address and "
            "--json"
        )
    from cdtl_core.simulation import compare as room
    from cdtl_core.simulation.study import only_sites, study_of

    if config is not None:
        settings = only_sites(load_config(config, set_ or ()), _listed(sites or ""))
        study = study_of(
            settings,
            methods=_listed(methods or _METHODS),
            patients=_listed(patients or "all"),
            targets=_listed(target or ""),
            donors=_listed(donors or "all"),
            **{name: value for name, value in counts.items() if value is not None},
        )
        folder = out or new_folder(Path("runs"), f"{settings.run.name}-compare")
        play: Callable[[], Comparison | None] = partial(
            room.compare, settings, study, folder, jobs=jobs, address=address or ""
        )
        if shard is not None:
            play = partial(room.compare_shard, settings, study, folder, shard=_part(shard), jobs=jobs)
    else:
        folder = resume or Path()
        play = partial(room.resume_comparison, folder, jobs=jobs, address=address or "")
    with resumable("cdtl compare", folder), showing_cells():
        result = play()
    if result is None:
        typer.echo(f"This part is finished, others are not. The last one combines; or: cdtl compare --resume {folder}")
    elif json_:
        typer.echo(result.model_dump_json(indent=1))
    else:
        print_comparison(result, folder)


def _check_place(engine: str, address: str | None, shard: str | None, jobs: int | None, out: Path | None) -> None:
    """Check options of where the cells are played.

    Args:
        engine: The engine.
        address: Of the cluster.
        shard: The part of the study.
        jobs: Number of processes.
        out: The study's folder.
    """
    if engine == "ray" and address is None:
        raise typer.BadParameter(
            "--engine ray needs --address; on this machine alone --jobs uses all cores without Ray"
        )
    if engine != "ray" and address is not None:
        raise typer.BadParameter("--address is of a Ray cluster: add --engine ray")
    if engine == "ray" and (shard is not None or jobs is not None):
        raise typer.BadParameter("--engine ray divides the cells itself: remove --shard and --jobs")
    if shard is not None and out is None:
        raise typer.BadParameter("--shard needs CONFIG and --out, the same for all parts")


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"--shard is '{text}': give I/N, with I from 1 to N")
    return int(number), int(count)


def _listed(text: str) -> list[str]:
    return [part for word in text.split(",") if (part := word.strip())]
