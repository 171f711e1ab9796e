"""The cohort check on a terminal: counts, then each finding with advice."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from cdtl_core.cli.screen import open_console
from cdtl_core.quality import CohortCheck, Finding
from cdtl_core.system.foreign import visible

__all__ = ["print_check"]

_NAMED = 6
_MOST = 2000  # characters of a sentence, which can list values of the images
_STYLES = {"error": "bold red", "warning": "yellow", "waived": "dim"}


def print_check(check: CohortCheck, root: Path) -> None:
    """Print the check; files are named relative to `root`."""
    console, counts = open_console(soft_wrap=True), check.counts
    console.print(
        f"{counts.images} images ({counts.readable} readable) of {counts.patients} patients, {check.modality}"
    )
    for one in counts.classes:
        console.print(f"  {visible(one.label) or '(no label)'}: {one.images} images, {one.patients} patients")
    sizes = list(counts.sizes)
    bits = ", ".join(str(depth) for depth in counts.bits)
    console.print(f"  {len(sizes)} sizes (most: {sizes[0] if sizes else '-'}), bits per sample: {bits or '-'}")
    for finding in check.findings:
        _print_finding(console, finding, root)
    if not check.findings:
        console.print("Nothing found.")
    errors = sum(finding.severity == "error" and not finding.waived for finding in check.findings)
    console.print(
        "There are errors: fix them, or switch a rule off in site.toml with a reason." if errors else "No errors."
    )


def _print_finding(console: Console, finding: Finding, root: Path) -> None:
    status = "waived" if finding.waived else finding.severity
    message = f" {finding.rule}: {visible(finding.message, _MOST)}"
    console.print(Text.assemble("\n", (status.upper(), _STYLES[status]), message))
    reason = f" Waived: {visible(finding.waived)}." if finding.waived else ""
    console.print(Text(f"  {visible(finding.advice, _MOST)}{reason}"))
    names = [_name(file, root) for file in finding.files[:_NAMED]]
    more = f" and {len(finding.files) - _NAMED} more" if len(finding.files) > _NAMED else ""
    if names:
        console.print(Text(f"  {', '.join(names)}{more}", style="dim"))


def _name(file: Path, root: Path) -> str:
    return visible(file.relative_to(root) if file.is_relative_to(root) else file)
