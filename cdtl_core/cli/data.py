"""`cdtl data`: checks and manifests of a hospital's images."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cdtl_core.cli.help import new_app
from cdtl_core.cli.pull import pull
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.data.listing.files import Listing
    from cdtl_core.data.source import Row
    from cdtl_core.quality import Finding

__all__ = ["PATTERN_HELP", "app"]

MODALITY_HELP = (
    "Modality of the images: ultrasound, mammography, histology, mri, ct, xray, thermography, dermoscopy, or one of a "
    "package (cdtl config list modalities)."
)
PATTERN_HELP = (
    "Where the patient is in an image's path: a template such as '{label}/{patient}/*' or '{patient}_*', or a regular "
    "expression whose first group is the patient."
)
_MOST = 2000  # characters of a note, which can name files
_LABELS = 12

app = new_app("Pull images from a PACS, check a cohort, and write its manifest.")
app.command("pull")(pull)


@app.command("make-manifest")
def make_manifest(
    source: Annotated[Path, typer.Argument(help="The folder of images; PNG, JPEG, TIFF, BMP, DICOM or NIfTI.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Table of labels, with the column label and one of file, patient_id or a DICOM key."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=YOURS: a column of the table under another name; repeat it.")
    ] = None,
    patient_pattern: Annotated[str, typer.Option(help=PATTERN_HELP)] = "",
    series: Annotated[bool, typer.Option("--series", help="A folder of DICOM slices is one row, a volume.")] = False,
    exams: Annotated[Literal["study", "series"], typer.Option(help="What the exam_id of DICOM files names.")] = "study",
    out: Annotated[Path | None, typer.Option(help="Manifest to write; default SOURCE/manifest.csv.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a manifest that exists.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write manifest.csv from folders, or from images in any order and a table of labels.

    Without --labels the folders in SOURCE are the labels, unless --patient-pattern says where the label is. What was
    recognised is printed, and what cdtl data check would refuse.
    """
    from cdtl_core.data.listing.folders import list_folders
    from cdtl_core.data.listing.labelled import list_labelled
    from cdtl_core.data.source import write_manifest
    from cdtl_core.errors import DataError
    from cdtl_core.quality import Entry, check_list

    target = out or source / "manifest.csv"
    columns = _columns(column or [], labels)
    if target.exists() and not force:
        raise DataError(f"{target} exists: give --force to write it again, or choose another file with --out.")
    if labels is not None and target.exists() and target.samefile(labels):
        raise DataError(f"{target} is the table of labels and would be lost: choose another file with --out.")
    found = (
        list_labelled(source, labels, patient_pattern, columns, series=series, exams=exams)
        if labels
        else list_folders(source, patient_pattern, series=series, exams=exams)
    )
    write_manifest(target, found.rows)
    refused = check_list([Entry(row.file, row.label, row.patient, row.split, row.exam) for row in found.rows])
    for note in found.notes:
        typer.echo(f"Note: {visible(note, _MOST)}", err=True)
    given = [str(source), *(("--labels", str(labels)) if labels else ()), *(("--out", str(out)) if out else ())]
    given += [part for pair in column or () for part in ("--column", pair)]
    given += [*(("--series",) if series else ()), *(("--exams", exams) if exams != "study" else ())]
    again = _with_patients(found, given, patient_pattern)
    if json_:
        typer.echo(json.dumps(_told(target, found, refused) | {"next": again}, indent=1))
        return
    patients = len({row.patient for row in found.rows if row.patient})
    named = len({row.exam for row in found.rows} - {""})
    typer.echo(f"Read as {visible(found.layout, _MOST)}.")
    of = f"{patients} patients{f' in {named} exams' if named else ''}"
    typer.echo(f"{len(found.rows)} images of {of}: {_by_label(found.rows)}.\nWritten: {target}")
    if refused:
        from cdtl_core.cli.findings import print_findings

        typer.echo("cdtl data check would refuse this manifest:")
        print_findings(refused, source)
    if again:
        typer.echo("\n" + again)
    elif not refused:
        typer.echo(f"Next: cdtl data check {target} --modality NAME")


def _with_patients(found: "Listing", given: list[str], pattern: str) -> str:
    """Return what to write so that all images get a patient; empty if they have one.

    Args:
        found: The images.
        given: The arguments of this call, without a pattern.
        pattern: The pattern of this call.
    """
    from cdtl_core.data.listing.patients import name_form

    if all(row.patient for row in found.rows):
        return ""
    form = None if pattern else name_form(found.rows)
    if found.patient_column:
        why = f"If the column '{found.patient_column}' of the table is the patient, give this command:"
        kept = ["--patient-pattern", pattern] if pattern else []
        added = [*kept, "--column", f"patient_id={found.patient_column}"]
    elif form:
        why = f"If '{form.patient}' in {form.name} is the patient ({form.patients} in all), give this command:"
        added = ["--patient-pattern", form.pattern]
    else:
        why = "Say where the patient is in an image's path, in place of PATTERN ('{label}/{patient}/*', '{patient}_*'):"
        added = ["--patient-pattern", "PATTERN"]
    command = shlex.join(["cdtl", "data", "make-manifest", *given, *added, "--force"])
    return f"{visible(why, _MOST)}\n  {visible(command, _MOST)}"


def _columns(pairs: list[str], labels: Path | None) -> dict[str, str]:
    """Return the column of a manifest to the table's name for it."""
    from cdtl_core.errors import ConfigError

    if pairs and labels is None:
        raise ConfigError("--column names a column of the table of labels: give --labels too.")
    found = {}
    for pair in pairs:
        name, _, own = pair.partition("=")
        if not name or not own:
            raise ConfigError(f"--column '{pair}' is not NAME=YOURS: write for example --column label=Diagnosis.")
        found["patient_id" if name == "PatientID" else name] = own
    return found


def _told(target: Path, found: "Listing", refused: "Sequence[Finding]") -> dict[str, object]:
    counts = Counter(row.label for row in found.rows)
    return {
        "manifest": str(target),
        "read_as": found.layout,
        "images": len(found.rows),
        "exams": len({row.exam for row in found.rows} - {""}),
        "labels": dict(sorted(counts.items())),
        "without_patient": sum(not row.patient for row in found.rows),
        "notes": list(found.notes),
        "would_refuse": [{"rule": one.rule, "message": one.message, "advice": one.advice} for one in refused],
    }


def _by_label(rows: "Sequence[Row]") -> str:
    counts = Counter(row.label for row in rows)
    named = [f"{count} {visible(label)}" for label, count in sorted(counts.items())]
    more = f" and {len(named) - _LABELS} more labels" if len(named) > _LABELS else ""
    return ", ".join(named[:_LABELS]) + more


@app.command("check")
def check(
    source: Annotated[Path, typer.Argument(help="A manifest.csv, a folder that holds one, or class folders.")],
    modality: Annotated[str, typer.Option(help=MODALITY_HELP)],
    site: Annotated[Path | None, typer.Option(help="site.toml with the [checks] and the label map to use.")] = None,
    patient_pattern: Annotated[str, typer.Option(help=f"For class folders without a manifest. {PATTERN_HELP}")] = "",
    labels: Annotated[str, typer.Option(help="Allowed labels, separated by commas; default: any.")] = "",
    unit: Annotated[
        Literal["image", "exam", "patient"], typer.Option(help="What has a label, as task.unit of the run.")
    ] = "exam",
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

    declared, (off, label_map, tile_um) = modality_of(modality), _site_settings(site)
    allowed = [label for label in labels.split(",") if label]
    with showing_progress():
        result = check_cohort(
            source,
            modality=declared,
            labels=allowed,
            label_map=label_map,
            switched_off=off,
            patient_pattern=patient_pattern,
            tile_um=tile_um,
            unit=unit,
        )
    if html is not None:
        from cdtl_core.report.cohort_page import cohort_html
        from cdtl_core.system.durable import replace_bytes

        root = source if source.is_dir() else source.parent
        replace_bytes(html, cohort_html(result, root=root, title=f"Cohort check: {root.name}").encode())
    if json_:
        typer.echo(json.dumps(as_dict(result), indent=1))
    else:
        print_check(result, source if source.is_dir() else source.parent)
    if result.has_errors:
        raise typer.Exit(DataError.exit_code)


def _site_settings(path: Path | None) -> tuple[Mapping[str, str], Mapping[str, str], float]:
    """Return the rules that a site switched off with reasons, its label map, and the resolution of slides' tiles."""
    from cdtl_core.config.settings import load_site

    if path is None:
        return {}, {}, 1.0
    own = load_site(path)
    return own.checks.off, own.data.label_map, own.data.tile_um
