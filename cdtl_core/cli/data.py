"""`cdtl data`: checks and manifests of a hospital's images."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.data.source import Row

__all__ = ["app"]

_MOST = 2000  # characters of a note, which can name files

app = typer.Typer(help="Check a cohort, and write its manifest.", no_args_is_help=True, rich_markup_mode=None)


@app.command("make-manifest")
def make_manifest(
    source: Annotated[Path, typer.Argument(help="Class folders (FOLDER/<label>/<image>), or a DICOM tree.")],
    labels: Annotated[Path | None, typer.Option(help="For a DICOM tree: CSV with label and a DICOM key.")] = None,
    patient_pattern: Annotated[
        str, typer.Option(help="Regular expression whose first group is the patient in a file's name.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Manifest to write; default SOURCE/manifest.csv.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write manifest.csv from class folders, or from a DICOM tree and a label table."""
    from cdtl_core.data.source import rows_of_dicom, rows_of_folders, write_manifest
    from cdtl_core.errors import DataError

    target = out or source / "manifest.csv"
    if target.exists():
        raise DataError(f"{target} exists: remove it, or choose another file with --out.")
    rows, notes = (
        rows_of_dicom(source, labels) if labels else (rows_of_folders(source, patient_pattern=patient_pattern), [])
    )
    write_manifest(target, rows)
    for note in notes:
        typer.echo(f"Note: {visible(note, _MOST)}", err=True)
    without = sum(not row.patient for row in rows)
    if without:
        typer.echo(f"Note: {without} images have no patient_id: fill it in, or use --patient-pattern.", err=True)
    if json_:
        counts = Counter(row.label for row in rows)
        told = {"manifest": str(target), "images": len(rows), "labels": dict(sorted(counts.items()))}
        typer.echo(json.dumps({**told, "without_patient": without, "notes": list(notes)}, indent=1))
    else:
        typer.echo(f"{len(rows)} images, {_by_label(rows)}: {target}")


def _by_label(rows: "list[Row]") -> str:
    counts = Counter(row.label for row in rows)
    return ", ".join(f"{count} {visible(label)}" for label, count in sorted(counts.items()))


@app.command("check")
def check(
    source: Annotated[Path, typer.Argument(help="A manifest.csv, a folder that holds one, or class folders.")],
    modality: Annotated[str, typer.Option(help="Modality of the images, e.g. ultrasound.")],
    site: Annotated[Path | None, typer.Option(help="site.toml with the [checks] and the label map to use.")] = None,
    labels: Annotated[str, typer.Option(help="Allowed labels, separated by commas; default: any.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="HTML page to write, with the images concerned.")] = None,
) -> None:
    """Check a cohort before training; exit code 4 if there is an unwaived error."""
    from cdtl_core.cli.findings import print_check
    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.config.modalities import modality_of
    from cdtl_core.errors import DataError
    from cdtl_core.quality import as_dict
    from cdtl_core.quality.check_source import check_cohort
    from cdtl_core.report.cohort_page import cohort_html
    from cdtl_core.system.durable import replace_bytes

    declared, (off, label_map) = modality_of(modality), _site_settings(site)
    allowed = [label for label in labels.split(",") if label]
    with showing_progress():
        result = check_cohort(source, modality=declared, labels=allowed, label_map=label_map, switched_off=off)
    if html is not None:
        root = source if source.is_dir() else source.parent
        replace_bytes(html, cohort_html(result, root=root, title=f"Cohort check: {root.name}").encode())
    if json_:
        typer.echo(json.dumps(as_dict(result), indent=1))
    else:
        print_check(result, source if source.is_dir() else source.parent)
    if result.has_errors:
        raise typer.Exit(DataError.exit_code)


def _site_settings(path: Path | None) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the rules that a site switched off with reasons, and its label map."""
    from cdtl_core.config.settings import load_site

    if path is None:
        return {}, {}
    own = load_site(path)
    return own.checks.off, own.data.label_map
