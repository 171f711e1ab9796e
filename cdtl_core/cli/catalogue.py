"""Names that a setting can have, with a few words on each: what `cdtl config list` prints.

torch is loaded only where a package brings a backbone, loss, method or transform, or timm's names are asked for.
"""

import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatch

import typer
from rich.padding import Padding
from rich.table import Column, Table

from cdtl_core.cli.screen import open_console
from cdtl_core.system.foreign import visible
from cdtl_core.system.plugins import KINDS, Plugin, clashes, faults, plugins

__all__ = ["entries_of", "print_entries"]

_MOST = 300  # characters of a text
_WITHOUT_WORDS = "registered by a script"  # what has no docstring; a package's name stands in its place


def entries_of(what: str, match: str = "") -> dict[str, str]:
    """Return names and what they are.

    Args:
        what: ``backbones``, ``methods``, ``losses``, ``transforms``, ``modalities``, ``policies``, ``metrics`` or
            ``configurations``.
        match: A form of names such as ``resnet*``; empty: all. Without it backbones of timm and torchvision are
            mentioned, not named.
    """
    found = _LISTS[what]()
    if what == "backbones" and match:
        found |= _libraries()
    if what in KINDS:
        broken = dict.fromkeys(faults(what), "cannot be used")
        said = {name: text for name, text in found.items() if text != _WITHOUT_WORDS} | broken
        texts = {one.name: f"{said.get(one.name, '')} [{_package(one)}]" for one in plugins(what)}
        found |= {name: text.strip() for name, text in texts.items()}
        found |= {
            name: f"cannot be used: {' and '.join(sorted(map(_package, several)))} bring it; remove all but one"
            for name, several in clashes(what).items()
        }
    return {name: text for name, text in found.items() if fnmatch(name, match or "*")}


def _package(plugin: Plugin) -> str:
    return f"{plugin.package} {plugin.version}"


def print_entries(found: Mapping[str, Mapping[str, str]]) -> None:
    """Print lists by their titles."""
    console = open_console()
    for title, entries in found.items():
        table = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2), pad_edge=False)
        for name, text in entries.items():
            table.add_row(visible(name), visible(text, _MOST))
        plain = ", ".join(map(visible, entries)) or "none"
        typer.echo(f"{title.capitalize()}:")
        console.print(Padding(table if any(entries.values()) else plain, (0, 0, 1, 2)))


def _backbones() -> dict[str, str]:
    from cdtl_core.models.own_nets import OWN

    if _added("backbones", "cdtl_core.models.backbones"):
        from cdtl_core.models.backbones import own_backbones

        own_backbones()
    return {
        "efficientnet_lite0": "EfficientNet-Lite0; its ImageNet weights are installed with cdtl",
        **{name: net.about or _first_line(net.build) for name, net in OWN.items()},
        "...": "every classifier of timm and torchvision: cdtl config list backbones --match 'resnet*'",
    }


def _libraries() -> dict[str, str]:
    from cdtl_core.models.libraries import timm, torchvision

    names = dict.fromkeys(torchvision.models.list_models(torchvision.models), "torchvision")
    return names | dict.fromkeys(timm.list_models(), "timm")


def _methods() -> dict[str, str]:
    from cdtl_core.simulation.about import ABOUT

    if not _added("methods", "cdtl_core.simulation.arms"):
        return dict(ABOUT)
    from cdtl_core.simulation.arms import methods

    return {name: method.about or _first_line(method.round) for name, method in methods().items()}


def _modalities() -> dict[str, str]:
    from cdtl_core.config.modalities import modalities

    return {one.name: f"{'colour' if one.colour else 'gray'}; {_dicom(one.dicom)}" for one in modalities().values()}


def _dicom(codes: tuple[str, ...]) -> str:
    return f"DICOM Modality {', '.join(codes)}" if codes else "no DICOM code"


def _policies() -> dict[str, str]:
    from cdtl_core.config.run import POLICIES

    return dict(POLICIES)


def _metrics() -> dict[str, str]:
    from cdtl_core.metrics.summary import known_metrics

    return dict.fromkeys(known_metrics(), "")


def _losses() -> dict[str, str]:
    found = {"cross_entropy": "cross-entropy, weighted by class"}
    if not _added("losses", "cdtl_core.training.objective"):
        return found
    from cdtl_core.training.objective import LOSSES

    return {name: _first_line(loss) for name, loss in LOSSES.all().items()} | found


def _transforms() -> dict[str, str]:
    if not _added("transforms", "cdtl_core.data.transforms"):
        return {}
    from cdtl_core.data.transforms import TRANSFORMS

    return {name: _first_line(transform) for name, transform in TRANSFORMS.all().items()}


def _added(kind: str, module: str) -> bool:
    """Whether a package or a script may have added to a kind: a script that did has loaded the module."""
    return bool(plugins(kind)) or module in sys.modules


def _first_line(thing: object) -> str:
    """Return what a registered function says of itself."""
    return (getattr(thing, "__doc__", None) or _WITHOUT_WORDS).strip().partition("\n")[0]


def _configurations() -> dict[str, str]:
    from cdtl_core.config.template import about_shipped
    from cdtl_core.system.shipped import shipped_names

    return {name: about_shipped(name) for name in shipped_names()}


_LISTS: Mapping[str, Callable[[], dict[str, str]]] = {
    "backbones": _backbones,
    "methods": _methods,
    "losses": _losses,
    "transforms": _transforms,
    "modalities": _modalities,
    "policies": _policies,
    "metrics": _metrics,
    "configurations": _configurations,
}
