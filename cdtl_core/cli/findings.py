"""Findings of the cohort check on a terminal: a block for each rule, with a few of its findings, the advice once."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cdtl_core.cli.progress import showing_progress
from cdtl_core.cli.screen import open_console
from cdtl_core.config import SiteConfig, Unit
from cdtl_core.data.listing.patients import name_form
from cdtl_core.data.source import rows_of_manifest
from cdtl_core.errors import DataError
from cdtl_core.quality import CohortCheck, Finding
from cdtl_core.quality.check_source import check_site_images, images_of
from cdtl_core.system.foreign import visible

__all__ = ["check_data", "listed_labels", "print_check", "print_findings", "tell_check"]

_SHOWN = 3  # findings of a rule
_NAMED = 6  # files of a finding
_MOST = 2000  # characters of a sentence, which can list values of the images
_LABELS = 20
_STYLES = {"error": "bold red", "warning": "yellow", "waived": "dim"}


def listed_labels(own: SiteConfig) -> list[str]:
    """Return the labels that a site's manifest gives its images; none of synthetic ones.

    Raises:
        DataError: The manifest is missing or lacks a column.
    """
    if own.data.phantom is not None:
        return []
    rows = rows_of_manifest(images_of(own))
    return sorted({row.label for row in rows} - {""})  # an empty one is a finding of the check


def check_data(own: SiteConfig, unit: Unit, *, quiet: bool) -> None:
    """Check the images of a new site, whose labels belong to a unit, and print the findings.

    Raises:
        DataError: There is an error that is not waived.
    """
    if own.data.phantom is not None:
        return
    with showing_progress():
        found = check_site_images(own, unit)
    tell_check(found, images_of(own), quiet=quiet)


def tell_check(found: CohortCheck, source: Path, *, quiet: bool = False) -> None:
    """Print a check, and refuse images with errors.

    Args:
        found: The check.
        source: What was checked: a manifest, or a folder of images.
        quiet: Print nothing.

    Raises:
        DataError: There is an error that is not waived.
    """
    if not quiet:
        print_check(found, source if source.is_dir() else source.parent)
    if found.has_errors:
        raise DataError(
            "the images have errors: fix them, or switch a rule off in site.toml [checks] with a reason, "
            "and run cdtl site init again without options (or with others, for example --patient-pattern)."
            + (
                _patient_hint(source)
                if source.is_file() and any(one.rule == "patient-missing" for one in found.findings)
                else ""
            )
        )


def _patient_hint(manifest: Path) -> str:
    """Return where the patient may be in the names of images without one, and what to write; empty if unknown."""
    rows = rows_of_manifest(manifest)
    form = name_form(rows)
    if form is None:
        return ""
    given = f"--patient-pattern {shlex.quote(form.pattern)}"
    how = f"add {given}."
    if any(row.file.is_relative_to(manifest.parent) for row in rows):  # the hospital's own manifest
        table = ["cdtl", "data", "make-manifest", str(manifest.parent), "--labels", str(manifest), "--out", "new.csv"]
        how = f"write another manifest with {shlex.join(table)} {given}, and give --data new.csv."
    return f" If '{form.patient}' in {form.name} is the patient ({form.patients} in all), {how}"


def print_check(check: CohortCheck, root: Path) -> None:
    """Print the check; files are named relative to `root`."""
    console, counts = open_console(soft_wrap=True), check.counts
    console.print(
        f"{counts.images} images ({counts.readable} readable) of {counts.patients} patients"
        f"{f' in {counts.exams} exams' if counts.exams else ''}, {check.modality}"
    )
    for one in counts.classes[:_LABELS]:
        console.print(f"  {visible(one.label) or '(no label)'}: {one.images} images, {one.patients} patients")
    if len(counts.classes) > _LABELS:
        console.print(f"  and {len(counts.classes) - _LABELS} more labels")
    if counts.volumes:
        least, median, most = counts.spacing_mm or (0.0, 0.0, 0.0)
        apart = f", {least:g} to {most:g} mm apart (median {median:g})" if counts.spacing_mm else ""
        console.print(f"  {counts.volumes} of them hold several images, {counts.slices} in all{apart}")
    sizes = list(counts.sizes)
    bits = ", ".join(str(depth) for depth in counts.bits)
    console.print(f"  {len(sizes)} sizes (most: {sizes[0] if sizes else '-'}), bits per sample: {bits or '-'}")
    print_findings(check.findings, root)
    if not check.findings:
        console.print("Nothing found.")
    if check.not_judged:
        console.print("\nNot judged:")
        for limit in check.not_judged:
            console.print(Text(f"  - {visible(limit, _MOST)}"))
    errors = sum(finding.severity == "error" and not finding.waived for finding in check.findings)
    console.print(
        "There are errors: fix them, or switch a rule off in site.toml with a reason." if errors else "No errors."
    )


def print_findings(findings: Sequence[Finding], root: Path) -> None:
    """Print findings in one block for each rule; files are named relative to `root`."""
    rules: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        rules.setdefault((finding.rule, finding.waived), []).append(finding)
    for found in rules.values():
        _print_rule(open_console(soft_wrap=True), found, root)


def _print_rule(console: Console, findings: Sequence[Finding], root: Path) -> None:
    first = findings[0]
    status = "waived" if first.waived else first.severity
    console.print(Text.assemble("\n", (status.upper(), _STYLES[status]), f" {first.rule}: ", _message(first)))
    _print_files(console, first, root)
    for finding in findings[1:_SHOWN]:
        console.print(Text(f"  {_message(finding)}"))
        _print_files(console, finding, root)
    if len(findings) > _SHOWN:
        console.print(
            Text(f"  and {len(findings) - _SHOWN} more findings of this rule; --json lists all.", style="dim")
        )
    reason = f" Waived: {visible(first.waived)}." if first.waived else ""
    console.print(Text(f"  {visible(first.advice, _MOST)}{reason}"))


def _message(finding: Finding) -> str:
    return visible(finding.message, _MOST)


def _print_files(console: Console, finding: Finding, root: Path) -> None:
    names = [_name(file, root) for file in finding.files[:_NAMED]]
    more = f" and {len(finding.files) - _NAMED} more" if len(finding.files) > _NAMED else ""
    if names:
        console.print(Text(f"  {', '.join(names)}{more}", style="dim"))


def _name(file: Path, root: Path) -> str:
    return visible(file.relative_to(root) if file.is_relative_to(root) else file)
