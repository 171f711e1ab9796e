"""`cdtl privacy`: the privacy cost of a run, and what a site has spent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtl_core.cli.help import new_app

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig

__all__ = ["app"]

app = new_app("Plan differential privacy, and show what is spent.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ledger")
def ledger(
    folder: Annotated[Path, typer.Argument(metavar="SITE_DIR", help="The site's folder.")], json_: Json = False
) -> None:
    """Print what a site has spent of its patients' privacy, by run, and what is left; changes nothing."""
    from cdtl_core.cli.privacy_text import print_spent
    from cdtl_core.config.folders import SiteFolder
    from cdtl_core.federation.journal import unprotected_runs
    from cdtl_core.results.spent import spent_of_site

    found = spent_of_site(folder)
    if json_:
        typer.echo(json.dumps({"ledgers": [one.model_dump(mode="json") for one in found]}, indent=1))
    elif not found:
        typer.echo(
            f"No steps with differential privacy have been taken here: {SiteFolder(folder).privacy} holds no ledger."
        )
        if runs := unprotected_runs(SiteFolder(folder)):
            typer.echo(f"This site sent updates without differential privacy in {', '.join(runs)}.")
    else:
        print_spent(found)


@app.command("plan")
def plan(
    patients: Annotated[int, typer.Option(help="Training patients of the site.")],
    epsilon: Annotated[float | None, typer.Option(help="dp.target_epsilon.")] = None,
    rounds: Annotated[int | None, typer.Option(help="federation.rounds.")] = None,
    steps: Annotated[int | None, typer.Option(help="train.steps, in each round.")] = None,
    delta: Annotated[float | None, typer.Option(help="dp.target_delta.")] = None,
    clip: Annotated[float | None, typer.Option(help="dp.max_grad_norm, C.")] = None,
    batch: Annotated[int | None, typer.Option(help="dp.batch_patients, expected in a step; 0: all.")] = None,
    config: Annotated[Path | None, typer.Option(help="A run's TOML file; the options replace its settings.")] = None,
    json_: Json = False,
) -> None:
    """Print the noise that a run needs and compare it with the signal, before training."""
    from cdtl_core.cli.privacy_text import print_outlook
    from cdtl_core.results.outlook import outlook

    given = {
        "dp.target_epsilon": epsilon,
        "dp.target_delta": delta,
        "dp.max_grad_norm": clip,
        "dp.batch_patients": batch,
        "federation.rounds": rounds,
        "train.steps": steps,
    }
    found = outlook(_run(config, given), patients)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=1)) if json_ else print_outlook(found)


def _run(path: Path | None, given: dict[str, float | None]) -> "RunConfig":
    from cdtl_core.config import RunConfig
    from cdtl_core.config.settings import flatten, load_run, unflatten

    told = {key: value for key, value in given.items() if value is not None}
    return unflatten(flatten(load_run(path) if path else RunConfig()) | told)
