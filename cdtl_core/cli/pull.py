"""`cdtl data pull`: images from a PACS, without identifiers, with a manifest."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.pacs.count import Counted
    from cdtl_core.pacs.pull import Pulled
    from cdtl_core.pacs.query import Asked, Query

__all__ = ["PACS_HELP", "pull"]

PACS_HELP = "Settings of the PACS (docs/guides/pacs.md)."
_SHOWN = 5
_DAY = ["%Y-%m-%d"]


def pull(
    out: Annotated[Path, typer.Argument(help="Folder for the images and manifest.csv; a second pull adds to it.")],
    pacs: Annotated[Path, typer.Option(help=PACS_HELP)] = Path("pacs.toml"),
    accessions: Annotated[
        Path | None, typer.Option(help="CSV of the studies to pull, with accession_number and label.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=YOURS: a column of this table under another name; repeat it.")
    ] = None,
    label: Annotated[str, typer.Option(help="Label of all studies, if there is no table.")] = "",
    modality: Annotated[str, typer.Option(help="Modality of the images, or a DICOM code such as MG.")] = "",
    since: Annotated[
        datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="First day of a study, YYYY-MM-DD.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="Last day of a study.")] = None,
    study_description: Annotated[str, typer.Option(help="Description of the study; * for any text.")] = "",
    series_description: Annotated[str, typer.Option(help="Description of the series; * for any text.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be pulled; write nothing.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="First compare every file with its hash.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pull images from a PACS: identifiers become keyed hashes, and of all else a documented list is kept.

    Give the command again to continue; studies that have arrived are not fetched again. Exit code 4 if a study is
    missing at the end.
    """
    from cdtl_core.cli.progress import showing_progress, showing_steps
    from cdtl_core.errors import DataError
    from cdtl_core.pacs.pace import Pace
    from cdtl_core.pacs.settings import load_pacs

    config = load_pacs(pacs)
    query = _query(modality, since, until, study_description, series_description)
    asked = _asked(accessions, column or [], label, query)
    from cdtl_core.pacs.count import count_studies
    from cdtl_core.pacs.pull import pull as pull_studies

    if dry_run:
        with showing_progress():
            counted = count_studies(config, out, query, asked)
        typer.echo(json.dumps(vars(counted), indent=1) if json_ else _counted(counted, config.address))
        return
    if config.trust_note:
        typer.echo(f"Warning: {visible(config.trust_note)}", err=True)
    with showing_steps() as tell:
        pace = Pace(
            window=config.window,
            studies_per_minute=config.studies_per_minute,
            mb_per_minute=config.mb_per_minute,
            tell=tell,
        )
        done = pull_studies(config, out, query, asked, pace=pace, verify=verify)
    typer.echo(json.dumps(vars(done), indent=1) if json_ else _told(done, out))
    if done.is_stopped:
        raise typer.Exit(130)
    if done.failed or done.missing:
        raise DataError(_missing(done))


def _query(modality: str, since: datetime | None, until: datetime | None, study: str, series: str) -> "Query":
    from cdtl_core.pacs.query import Query

    return Query(
        modality=_codes(modality),
        since=since.date() if since else None,
        until=until.date() if until else None,
        study_description=study,
        series_description=series,
    )


def _codes(modality: str) -> tuple[str, ...]:
    """Return the DICOM codes of a modality; a code in capitals stands for itself."""
    from cdtl_core.config.modalities import modality_of

    if not modality or (modality.isupper() and modality.isalnum() and len(modality) <= 16):
        return (modality,) if modality else ()
    return modality_of(modality).dicom


def _asked(table: Path | None, columns: list[str], label: str, query: "Query") -> "list[Asked]":
    from cdtl_core.errors import ConfigError
    from cdtl_core.pacs.query import Asked, read_accessions

    if table is not None:
        if label:
            raise ConfigError("--label is for pulls without a table: the column label of the table is used.")
        return read_accessions(table, _pairs(columns))
    if columns:
        raise ConfigError("--column names a column of the table of studies: give --accessions too.")
    if query.is_empty:
        raise ConfigError(
            "this would pull the whole PACS: give --accessions, or --modality, --since, --until, --study-description "
            "or --series-description."
        )
    return [Asked(label=label)]


def _pairs(columns: list[str]) -> Mapping[str, str]:
    from cdtl_core.errors import ConfigError

    pairs = [column.partition("=") for column in columns]
    for name, _, own in pairs:
        if not name or not own:
            raise ConfigError("--column is NAME=YOURS: write for example --column label=Diagnosis.")
    return {name: own for name, _, own in pairs}


def _counted(one: "Counted", address: str) -> str:
    images = "an unknown number of" if one.images is None else str(one.images)
    told = f"{visible(address)} has {_many(one.studies, 'study')} with {one.series} series and {images} images"
    here = f"; {_many(one.here, 'study')} of these arrived before" if one.here else ""
    size = "How many bytes they have is not known before images of this PACS have arrived."
    if one.images is not None and one.bytes_of_image is not None:
        size = f"That is about {_mb(one.images * one.bytes_of_image)}, going by the images that are here."
    missing = f"\nNot in the PACS: {_many(one.missing, 'accession number')}." if one.missing else ""
    return f"{told}{here}. {size}{missing}\nNothing was written."


def _told(done: "Pulled", out: Path) -> str:
    rate = f", {done.fetched / done.seconds * 60:.0f} studies per minute" if done.seconds > 1 and done.fetched else ""
    pulled = f"{_many(done.fetched, 'study')} with {_many(done.images, 'image')}"
    lines = [f"{pulled} pulled ({_mb(done.size)}{rate})."]
    if done.here:
        lines.append(f"Arrived before: {_many(done.here, 'study')}.")
    if not (done.fetched or done.here or done.failed or done.missing or done.is_stopped):
        lines = ["The PACS has no study that meets these conditions: check dates, modality and descriptions."]
    lines += [f"Left out: {_many(count, 'image')} ({reason})." for reason, count in sorted(done.left_out.items())]
    if done.is_stopped:
        lines.append("Stopped; give the same command again to continue.")
    if done.rows:
        labels = f" Without a label: {done.without_label}. Give them one in your table." if done.without_label else ""
        manifest = out / "manifest.csv"
        lines.append(
            f"{manifest}: {_many(done.rows, 'row')}.{labels}\nNext: cdtl data check {manifest} --modality NAME"
        )
    return "\n".join(lines)


def _missing(done: "Pulled") -> str:
    parts: list[Any] = []
    if done.failed:
        shown = [f"{name}: {reason.rstrip('.')}" for name, reason in list(done.failed.items())[:_SHOWN]]
        more = f"; and {len(done.failed) - _SHOWN} more" if len(done.failed) > _SHOWN else ""
        parts.append(f"{_many(len(done.failed), 'study')} missing ({'; '.join(shown)}{more})")
    if done.missing:
        names = ", ".join(done.missing[:_SHOWN]) + (", ..." if len(done.missing) > _SHOWN else "")
        parts.append(f"{_many(len(done.missing), 'accession number')} not in the PACS (keyed hash {names})")
    return f"{' and '.join(parts)}: give the same command again once this is solved."


def _many(count: int, word: str) -> str:
    """Return a number of things in words."""
    return f"{count} {word}" if count == 1 else f"{count} {word[:-1]}ies" if word.endswith("y") else f"{count} {word}s"


def _mb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
