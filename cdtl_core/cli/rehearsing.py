"""Results of a site's check as lines on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from cdtl_core.cli.screen import open_console
from cdtl_core.system.foreign import visible

__all__ = ["print_checks"]

_MOST = 2000  # characters of a finding, which can end with the last lines of a log
_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def print_checks(found: Mapping[str, Any]) -> None:
    """Print each finding, then the rehearsal's estimates."""
    console = open_console(soft_wrap=True)
    for one in found["checks"]:
        line = Text(f"{one['state']:<8}", style=_STYLES[one["state"]])
        console.print(line + Text(f"{one['name']}: {visible(one['text'], _MOST)}", style=""))
    estimates = found["rehearsal"]
    if estimates:
        links = ", ".join(f"{seconds} s at {speed}" for speed, seconds in estimates["link_seconds_per_round"].items())
        console.print(
            f"A round here takes about {estimates['seconds_per_round']:.0f} s with the default settings, measured in a "
            f"rehearsal: {estimates['site_seconds_per_round']:.1f} s are this site's work, of which "
            f"{estimates['own_seconds_per_round']:.1f} s train its own model in addition to the joint one. The models "
            f"take {estimates['disk_bytes'] / 1e6:.0f} MB of disk, of which {estimates['own_disk_bytes'] / 1e6:.0f} "
            f"MB are the own model's. It takes {estimates['peak_memory_bytes'] / 1e9:.1f} GB of memory and in each "
            f"round {estimates['bytes_up_per_round'] / 1e6:.1f} MB up and "
            f"{estimates['bytes_down_per_round'] / 1e6:.1f} MB down ({links}); once "
            f"{estimates['initial_weights_bytes_once'] / 1e6:.1f} MB down to begin with.",
        )
