"""Checks a configuration file of any kind, and names all its wrong settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdtl_core.config.run import RunConfig
from cdtl_core.config.settings import flatten, load_run, load_simulation, load_site, read_toml
from cdtl_core.config.simulation import SimulationConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.errors import ConfigError

__all__ = ["Checked", "check_file"]


_LOAD: Mapping[str, Callable[[Path, Sequence[str]], SimulationConfig | RunConfig]] = {
    "simulation": load_simulation,
    "run": load_run,
}


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
            count = len(self.settings.sites)
            return f"a simulation of {count} site{'s' * (count > 1)}"
        return "the settings of a run" if self.kind == "run" else "the settings of a site"


def check_file(path: Path, changes: Sequence[str] = ()) -> Checked:
    """Check a file; its kind follows from its settings.

    Args:
        path: The file.
        changes: Settings of a run or a simulation to change before, each as ``key=value``.

    Raises:
        ConfigError: The file is missing or not TOML, or changes are given for a site's file.
    """
    kind = _kind_of(read_toml(path))
    if kind == "site" and changes:
        raise ConfigError(f"{path} holds the settings of a site, which --set does not change: edit the file.")
    try:
        settings = load_site(path) if kind == "site" else _LOAD[kind](path, changes)
    except ConfigError as error:
        return Checked(kind, None, tuple(getattr(error, "__notes__", (str(error),))))
    fault = ""
    if isinstance(settings, SimulationConfig):
        fault = settings.run.federation.too_few(site.modality for site in settings.sites)
    return Checked(kind, settings, (fault,) if fault else (), _changed(settings))


def _kind_of(tree: dict[str, Any]) -> str:
    if "sites" in tree or isinstance(tree.get("site"), list):
        return "simulation"
    return "site" if {"site", "modality"} & tree.keys() else "run"


def _changed(settings: SimulationConfig | RunConfig | SiteConfig) -> dict[str, Any]:
    """Return the settings that differ from the defaults, of a simulation those of its run."""
    run = settings.run if isinstance(settings, SimulationConfig) else settings
    if isinstance(run, SiteConfig):
        return {key: str(value) for key, value in run.model_dump(mode="json", exclude_defaults=True).items()}
    defaults = flatten(RunConfig())
    return {key: value for key, value in flatten(run).items() if value != defaults[key]}
