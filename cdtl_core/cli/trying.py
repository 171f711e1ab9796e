"""`cdtl try`: a whole federation as real processes on this machine, from enrolment to the report."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtl_core.cli.data import MODALITY_HELP, PATTERN_HELP
from cdtl_core.cli.progress import ending_once
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig, SimulationConfig
    from cdtl_core.deploy.local import LocalFederation
    from cdtl_core.results.report import Report

__all__ = ["try_federation"]

_PATIENCE_S = 900.0
"""Longest wait for a site in a round and at the start."""


def try_federation(
    config: Annotated[
        Path, typer.Argument(help="A .toml file as of cdtl simulate, or a shipped one; its sites take part.")
    ] = Path("try"),
    sites: Annotated[
        int, typer.Option(min=0, max=12, help="Number of synthetic sites; 0: those of CONFIG.", show_default=False)
    ] = 0,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER: a site with the images of a folder, in place of the synthetic ones; repeat it."
        ),
    ] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help=f"{MODALITY_HELP} For each folder its own: NAME=MODALITY; repeat it.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="YOURS=THEIRS: a label of the folders and the word of the study; repeat it."),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A label whose images are left out; repeat it.")] = None,
    patient_pattern: Annotated[str, typer.Option(help=PATTERN_HELP)] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: key=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for everything; default runs/<name>, numbered.")] = None,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser, if this is a terminal with a screen.")
    ] = True,
) -> None:
    """Play a federation with real processes on this machine, as between hospitals, and write its report.

    A coordinator and every site run as separate programs, with certificates, egress filters and approvals. Admissions
    and approvals are automatic here. At the end, after Ctrl-C and after a failure no program and no open port is left.
    """
    from cdtl_core.cli.try_sites import folders_of, given_sites, repeated
    from cdtl_core.config.folders import new_folder
    from cdtl_core.config.settings import load_config
    from cdtl_core.deploy.enrolling import label_map_of
    from cdtl_core.errors import CheckpointError

    if sites and site:
        raise typer.BadParameter("give --sites or --site, not both")
    folders, label_map = folders_of(site or [], modality or []), label_map_of(map_ or [], ignore or [])
    settings = load_config(config, set_ or ())
    out = (out or new_folder(Path("runs"), settings.run.name)).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not empty: choose another --out.")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ending_once():
        try:
            if folders:
                settings = given_sites(settings, out, folders, label_map, patient_pattern)
            elif sites:
                settings = repeated(settings, sites)
            settings, local = _enrolled(settings, out)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)  # nothing has run
            raise
        _played(settings, local, out, browser=open_ and _has_screen())


def _enrolled(settings: "SimulationConfig", out: Path) -> "tuple[SimulationConfig, LocalFederation]":
    """Make the coordinator and the sites; return the settings of the trial and the federation."""
    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.config import SimulationConfig
    from cdtl_core.config.folders import RunFolder
    from cdtl_core.config.settings import save_toml, simulation_toml
    from cdtl_core.deploy.enrolling import make_site
    from cdtl_core.deploy.local import LocalFederation
    from cdtl_core.simulation.run_folder import with_absolute_paths

    methods = ("cdtl",) if "cdtl" in settings.methods else settings.methods[-1:]
    settings = with_absolute_paths(SimulationConfig(run=settings.run, methods=methods, sites=settings.sites))
    typer.echo(f"A coordinator and {len(settings.sites)} sites as separate programs on this machine, in {out}.")
    typer.echo("Nothing leaves this machine. Ctrl-C ends everything.")
    local, run = LocalFederation(out), _run_of(settings)
    _heading("Coordinator", "cdtl server init, cdtl server start")
    typer.echo(f"  its own certificate authority; address localhost:{local.port}")
    _heading("Sites", "cdtl server invite, cdtl site init, cdtl server admit, cdtl site start")
    for own in settings.sites:
        home = RunFolder(out).site(own.site).home
        make_site(home, own)
        with showing_progress():
            enrolment = local.admit(home, run)
        kind = "SYNTHETIC" if own.data.phantom else "own images"
        about = f"{own.modality}, about {enrolment.contract.patients} patients ({kind})"
        typer.echo(f"  {own.site}: {about}, key {enrolment.fingerprint[:19]} ...")
    _automatic("every site is admitted at once", "a person compares its fingerprint by telephone first")
    save_toml(RunFolder(out).config, simulation_toml(settings))
    return settings, local


def _played(settings: "SimulationConfig", local: "LocalFederation", out: Path, *, browser: bool) -> None:
    """Start the services, approve the run at every site, follow it, and report its results."""
    from cdtl_core.cli.follow import Follower
    from cdtl_core.cli.parties import print_request
    from cdtl_core.cli.table import print_report
    from cdtl_core.config.folders import RunFolder
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.approvals import approve
    from cdtl_core.deploy.local import await_end
    from cdtl_core.deploy.preparing import prepare_run
    from cdtl_core.deploy.runs import queue_run
    from cdtl_core.errors import FederationError, error_of_code
    from cdtl_core.report.live import open_page

    logs = out / "logs"
    logs.mkdir()
    with open_page(out, browser=browser) as url:
        with local.running(logs) as group:
            run, request, _ = prepare_run(
                local.coordinator, _run_of(settings), tell=lambda text: typer.echo(f"  {text}")
            )
            RunFolder(out).journal.symlink_to(RunFolder(run).journal.relative_to(out))
            _heading("Run", "cdtl server run, cdtl site approve")
            print_request(request)
            for name, home in local.homes.items():
                approval = approve(home, request, load_site(home / "site.toml"), note="cdtl try, automatically")
                typer.echo(f"  approved at {name} as {approval.id}")
            _automatic("the run is approved at every site", "a person reads the request and decides")
            queue_run(run)
            _heading("Rounds", "cdtl server run, cdtl server page")
            typer.echo(f"  page, updated after each round: {url}")
            state = await_end(group, run, logs, look=Follower(run).look)
        if state.status != "completed":
            kind = error_of_code(state.exit_code or FederationError.exit_code)
            raise kind(f"the run ended as {state.status}: {visible(state.reason, 2000)} The logs are in {logs}.")
        report = _gathered(settings, out)
    _heading("Results", "cdtl report")
    print_report(report, out)
    typer.echo(f"\nReport: {out / 'report.html'}. In a real federation no one has this page with all sites:")
    typer.echo(f"  a hospital has its own, with images: cdtl report {out / 'sites' / settings.sites[0].site}")
    typer.echo(f"  the coordinator has no score of a patient: cdtl report {local.coordinator}")


def _gathered(settings: "SimulationConfig", out: Path) -> "Report":
    from cdtl_core.config.folders import RunFolder
    from cdtl_core.results.report import save_report
    from cdtl_core.simulation.gather import gather_report

    report = gather_report(settings, RunFolder(out), "deployed")
    save_report(RunFolder(out).report, report)
    return report


def _run_of(settings: "SimulationConfig") -> "RunConfig":
    """Return the run of a trial: all sites take part."""
    run = settings.of_method(settings.methods[0])
    names = tuple(own.site for own in settings.sites)
    limits = {"round_timeout_s": _PATIENCE_S, "join_timeout_s": _PATIENCE_S}
    federation = run.federation.model_copy(update={"sites": names, "min_sites": len(names), **limits})
    return run.model_copy(update={"federation": federation})


def _heading(what: str, commands: str) -> None:
    typer.echo(f"\n{what}  ({commands})")


def _automatic(what: str, really: str) -> None:
    typer.echo(f"  AUTOMATIC in this trial: {what}. In a real federation {really}.")


def _has_screen() -> bool:
    """Whether a browser can be opened: a terminal, and a desktop or a named browser."""
    import os

    desktop = sys.platform == "darwin" or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return sys.stdout.isatty() and desktop
