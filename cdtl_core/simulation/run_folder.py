"""Run directories: refuse a used one, make settings independent of the working folder, name the site in errors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdtl_core.config import NAMED_WEIGHTS, SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import flatten, load_simulation
from cdtl_core.errors import CheckpointError, ConfigError, DataError, PrivacyError

__all__ = ["kept_settings", "naming", "refuse_changed", "refuse_used", "with_absolute_paths"]

_BEFORE = (".lock", ".config.toml.draft", ".on-cluster-", "ray.log")
"""Beginnings of the names of files of a run that was killed before its settings were written: there is nothing to
continue."""


def refuse_used(out: Path, resume: Callable[..., object]) -> None:
    """Raise an error if a new run would write into existing files.

    Args:
        out: Folder of the new run.
        resume: The function that continues a run in it, for callers in Python.

    Raises:
        CheckpointError: `out` is a file, or a folder that is not empty.
    """
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file: choose a folder for --out.")
    if out.exists() and any(not path.name.startswith(_BEFORE) for path in out.iterdir()):
        raise CheckpointError(
            f"{out} is not empty: continue its run with --resume {out} (in Python: {resume.__name__}({str(out)!r})), "
            "or choose another folder."
        )


def kept_settings(out: Path) -> SimulationConfig:
    """Return the settings of the run in a folder.

    Raises:
        CheckpointError: The folder holds no run.
    """
    if not RunFolder(out).config.exists():
        raise CheckpointError(f"{out} holds no run (config.toml is missing): give the folder of an earlier --out.")
    return load_simulation(RunFolder(out).config)


def refuse_changed(config: SimulationConfig, out: Path) -> None:
    """Refuse to continue a run with other settings than its own.

    Raises:
        CheckpointError: `out` holds no run, or one with other settings; the sentence names the first of them.
    """
    was, now = kept_settings(out), with_absolute_paths(config)
    if was == now:
        return
    before, after = flatten(was.run), flatten(now.run)
    changed = [f"{key} was {before[key]} and is {value}" for key, value in after.items() if before[key] != value]
    raise CheckpointError(
        f"{out} is a run with other settings ({'; '.join(changed[:3]) or 'its sites or methods differ'}): continue it "
        f"with its own, --resume {out} alone, or start another run without --resume."
    )


def with_absolute_paths(config: SimulationConfig) -> SimulationConfig:
    """Return the settings with absolute paths, for a resume from another folder."""
    model = config.run.model
    if model.weights not in NAMED_WEIGHTS:
        model = model.model_copy(update={"weights": str(Path(model.weights).expanduser().absolute())})
    sites = []
    for own in config.sites:
        data = (
            own.data.model_copy(update={"root": own.data.root.expanduser().absolute()})
            if own.data.manifest
            else own.data
        )
        sites.append(own.model_copy(update={"data": data}))
    run = config.run.model_copy(update={"model": model})
    return config.model_copy(update={"run": run, "sites": tuple(sites)})


@contextmanager
def naming(site: str) -> Iterator[None]:
    """Put the site's name before an error about its images or settings that is raised inside the block."""
    try:
        yield
    except (ConfigError, DataError, PrivacyError) as error:
        if f"site {site}" not in str(error):
            error.args = (f"site {site}: {error}",)
        raise
