"""`cdtl simulate`: a whole federation on one machine, or on a Ray cluster."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["simulate"]


def simulate(
    config: Annotated[
        Path | None,
        typer.Argument(help="A .toml file, or a shipped one: demo, exams, tiny, breast, phantoms, private, scarce."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: key=value, e.g. train.lr=0.001.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to write; default runs/<name>, numbered.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to continue.")] = None,
    engine: Annotated[
        Literal["in-process", "ray"],
        typer.Option(help="ray: one process per site, by Flower's own simulation engine or on a cluster."),
    ] = "in-process",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Head of a Ray cluster; auto: that of this machine.")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Show the run's page in a browser during the run (loopback only).")
    ] = False,
    mlflow: Annotated[str, typer.Option(metavar="URI", help="Also log rounds to this MLflow server or folder.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print report.json instead of the table.")] = False,
) -> None:
    """Train FedBN and CDTL over the sites of CONFIG, and compare both with local training at each site."""
    if engine != "ray" and address is not None:
        raise typer.BadParameter("--address is of a Ray cluster: add --engine ray")
    if engine == "ray" and address is None:
        _isolate_ray(online=open_ or bool(mlflow))  # before any import that starts threads
    from cdtl_core.cli.progress import resumable, showing_progress
    from cdtl_core.cli.table import print_report
    from cdtl_core.config.folders import new_folder
    from cdtl_core.config.settings import load_config

    if config is None and resume is None:
        raise typer.BadParameter("give a CONFIG to start, or --resume DIR to continue")
    if resume is not None and (out or (set_ and config is None)):
        raise typer.BadParameter("--resume continues with the run's own settings and folder: remove --set and --out")
    settings = load_config(config, set_ or ()) if config is not None else None
    if settings is not None and resume is not None:
        from cdtl_core.simulation.run_folder import refuse_changed

        refuse_changed(settings, resume)
        settings = None
    from cdtl_core.cli.watching import watching
    from cdtl_core.simulation.simulate import resume_simulation
    from cdtl_core.simulation.simulate import simulate as start_simulation
    from cdtl_core.system.program import keep_freed_memory

    folder = resume or out or new_folder(Path("runs"), settings.run.name if settings else "")
    shown = watching(folder, settings, open_=open_, mlflow=mlflow, json=json_)
    keep_freed_memory()
    with resumable("cdtl simulate", folder), shown, showing_progress():
        if settings is not None:
            report = start_simulation(settings, folder, engine=engine, address=address or "")
        else:
            report = resume_simulation(folder, engine=engine, address=address or "")
    if json_:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_report(report, folder)


def _isolate_ray(*, online: bool) -> None:
    """Close the ports of Ray and of Flower's control API to other accounts, which could use them to run code."""
    from cdtl_core.system.isolation import try_isolation

    fault = "--open and --mlflow need the machine's network" if online else try_isolation()
    if fault:
        typer.echo(f"Other accounts of this machine can run code as you through the ports of Ray ({fault}).", err=True)
