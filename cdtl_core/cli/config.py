"""`cdtl config`: templates, checks and lists for configuration files."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtl_core.cli.help import new_app
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig

__all__ = ["app"]

_MOST = 2000  # characters of a sentence about a setting


class What(StrEnum):
    """Lists."""

    BACKBONES, METHODS, MODALITIES, POLICIES = "backbones", "methods", "modalities", "policies"
    LOSSES, TRANSFORMS, METRICS, CONFIGURATIONS = "losses", "transforms", "metrics", "configurations"


app = new_app("Write, check and look up configuration files.")


@app.command("new")
def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="study: what all sites agree on; site: a hospital's own; or the name of a shipped configuration, "
            "such as demo or tiny (cdtl config list configurations)."
        ),
    ] = "study",
    out: Annotated[Path | None, typer.Option(help="File to write; default KIND.toml. -: print it.")] = None,
) -> None:
    """Write a commented file with every setting: its meaning, unit, range and default."""
    from cdtl_core.config.template import template
    from cdtl_core.errors import ConfigError
    from cdtl_core.system.durable import replace_bytes

    target = out or Path(f"{kind}.toml")
    text = template(kind, target.name)
    if str(target) == "-":
        typer.echo(text, nl=False)
        return
    if target.exists():
        raise ConfigError(f"{target} exists: choose another file with --out, or print the template with --out -.")
    replace_bytes(target, text.encode())
    typer.echo(f"{target} is written. Check it after each change: cdtl config check {target}")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .toml file, or the name of a shipped one.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting before: key=value, e.g. data.root=FOLDER.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name every wrong setting of a file, and what it needs that is missing here; exit code 3 if there is one."""
    from cdtl_core.config.checking import check_file
    from cdtl_core.system.shipped import find_config

    found = check_file(find_config(file), set_ or ())
    faults = [*found.faults, *_missing_here(found.settings)]
    if json_:
        told = {"file": str(file), "kind": found.kind, "faults": faults, "changed": found.changed}
        typer.echo(json.dumps(told, indent=1))
    else:
        changed = ", ".join(f"{visible(key)} = {visible(value)}" for key, value in found.changed.items())
        if not faults:
            typer.echo(f"{file} holds {found.what}. No errors.")
            typer.echo(f"Settings that differ from the defaults: {changed or 'none'}.")
    _end_with(faults, quiet=json_)


def _end_with(faults: Sequence[str], *, quiet: bool = False) -> None:
    """End the command with the sentences and exit code 3, if there are any."""
    from cdtl_core.errors import ConfigError

    for sentence in faults if not quiet else ():
        typer.echo(f"Error: {visible(sentence, _MOST)}", err=True)
    if faults:
        raise typer.Exit(ConfigError.exit_code)


def _missing_here(settings: Any) -> list[str]:
    """Return a sentence for each name that nothing here has: a backbone, a file of weights or images."""
    from cdtl_core.config import NAMED_WEIGHTS, RunConfig, SimulationConfig
    from cdtl_core.errors import CdtlError

    if settings is None:
        return []
    run = settings.run if isinstance(settings, SimulationConfig) else settings
    sites = settings.sites if isinstance(settings, SimulationConfig) else [settings] * (not isinstance(run, RunConfig))
    faults = [
        f"site {site.site}: the manifest {path} does not exist: set data.root and data.manifest to it."
        for site in sites
        if site.data.manifest and not (path := site.data.root.expanduser() / site.data.manifest).is_file()
    ]
    if isinstance(run, RunConfig):
        try:
            _check_code(run)
        except CdtlError as error:
            faults.append(str(error))
        weights = run.model.weights
        if weights not in NAMED_WEIGHTS and not Path(weights).is_file():
            faults.append(f"model.weights {weights} does not exist: give a .safetensors file, imagenet or random.")
    return faults


def _check_code(run: "RunConfig") -> None:
    """Refuse a backbone, loss or transform that there is not, and stages that the backbone does not have.

    Only what does not come with cdtl is built to find out, since that loads torch.

    Raises:
        CdtlError: Something is missing.
    """
    if _is_shipped(run):
        return
    from cdtl_core.data.transforms import TRANSFORMS
    from cdtl_core.models.model import frozen_stages, parts_of, shared_classifier
    from cdtl_core.training.objective import check_loss

    check_loss(run)
    for name in run.train.augment.transforms:
        TRANSFORMS.find(name)
    model = shared_classifier(run.model, len(run.task.labels), run.image.size)
    parts_of(model, freeze=frozen_stages(model, run), share_head=run.share.head)


def _is_shipped(run: "RunConfig") -> bool:
    """Whether a run names only code that comes with cdtl, and only stages that its backbone has."""
    from cdtl_core.models.own_nets import STAGES
    from cdtl_core.system.plugins import plugins

    own = {one.name for kind in ("backbones", "losses") for one in plugins(kind)}
    name, levels = run.model.backbone, run.model.levels
    if name not in STAGES or run.train.loss != "cross_entropy" or {name, run.train.loss} & own:
        return False
    last = max(levels, default=STAGES[name])
    trained = run.dp.stages if run.dp.enabled else 0
    return not run.train.augment.transforms and max(last, run.train.freeze) <= STAGES[name] and trained <= last


@app.command("list")
def list_(
    what: Annotated[
        What | None, typer.Argument(metavar="[WHAT]", help=f"One of {', '.join(What)}; default: all.")
    ] = None,
    match: Annotated[str, typer.Option(help="Only names of this form, e.g. 'resnet*'.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the names that a setting can have: backbones, methods, modalities, policies and more."""
    from cdtl_core.cli.catalogue import entries_of, print_entries
    from cdtl_core.system.plugins import faults

    asked = [one.value for one in ([what] if what else What)]
    found = {one: entries_of(one, match) for one in asked}
    if json_:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_entries(found)
    _end_with([sentence for one in asked for sentence in faults(one).values()])


@app.command("reference")
def reference() -> None:
    """Print all settings with default, allowed values and meaning as a page in Markdown."""
    from cdtl_core.config.reference import reference_page

    typer.echo(reference_page(), nl=False)
