"""Checks a configuration file of any kind, and names all its wrong settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdtl_core.config.run import RunConfig
from cdtl_core.config.settings import flatten, load_run, load_simulation, load_site, read_toml
from cdtl_core.config.simulation import SimulationConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.errors import ConfigError

__all__ = ["Checked", "check_file"]


@dataclass(frozen=True)
class Checked:
    """What a file holds.

    Attributes:
        kind: ``simulation``, ``run`` or ``site``.
        settings: None if a setting is wrong.
        faults: A sentence for each wrong setting.
    """

    kind: str
    settings: SimulationConfig | RunConfig | SiteConfig | None
    faults: tuple[str, ...] = ()
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """What the file holds, in words."""
        if isinstance(self.settings, SimulationConfig):
            return f"a simulation of {len(self.settings.sites)} sites"
        return "the settings of a run" if self.kind == "run" else "the settings of a site"


def check_file(path: Path) -> Checked:
    """Check a file; its kind follows from its settings.

    Raises:
        ConfigError: The file is missing or not TOML.
    """
    kind, load = _kind_of(read_toml(path))
    try:
        settings = load(path)
    except ConfigError as error:
        return Checked(kind, None, tuple(getattr(error, "__notes__", (str(error),))))
    return Checked(kind, settings, changed=_changed(settings))


def _kind_of(tree: dict[str, Any]) -> tuple[str, Callable[[Path], SimulationConfig | RunConfig | SiteConfig]]:
    if "sites" in tree:
        return "simulation", load_simulation
    if {"site", "modality"} & tree.keys():
        return "site", load_site
    return "run", load_run


def _changed(settings: SimulationConfig | RunConfig | SiteConfig) -> dict[str, Any]:
    """Return the settings that differ from the defaults, of a simulation those of its run."""
    run = settings.run if isinstance(settings, SimulationConfig) else settings
    if isinstance(run, SiteConfig):
        return {key: str(value) for key, value in run.model_dump(mode="json", exclude_defaults=True).items()}
    defaults = flatten(RunConfig())
    return {key: value for key, value in flatten(run).items() if value != defaults[key]}
