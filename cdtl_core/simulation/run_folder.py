"""A run directory before anything runs: refused if used, and settings that mean the same wherever it is resumed."""

from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import CheckpointError

__all__ = ["refuse_used", "with_absolute_paths"]

_BEFORE = {".lock", ".config.toml.draft"}
"""All that a run leaves that is killed before its settings stand: nothing to go on with."""


def refuse_used(out: Path) -> None:
    """Raise where a new run would write into what is there.

    Raises:
        CheckpointError: `out` is a file, or a folder that is not empty.
    """
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file: choose a folder for --out.")
    if out.exists() and any(path.name not in _BEFORE for path in out.iterdir()):
        raise CheckpointError(f"{out} is not empty: continue its run with --resume {out}, or choose another --out.")


def with_absolute_paths(config: SimulationConfig) -> SimulationConfig:
    """The same settings wherever they are resumed from."""
    model = config.run.model
    if model.weights not in {"imagenet", "random"}:
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
