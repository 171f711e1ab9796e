"""`cdtl predict`: what a model says about images or exams, in words, as CSV or as JSON."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cdtl_core.cli.pull import PACS_HELP
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.results.answer import Answer

__all__ = ["predict"]

_MOST_PATH = 4096
_WARNED = 10  # images whose reasons are printed
_FAULTS = 3


def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, e.g. runs/demo/sites/north.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Images, exams (a folder, a volume), folders of them, patterns such as '*.png', or a manifest.csv."
        ),
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="x,y,width,height of the lesion, once per image, for a model of lesions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write, as CSV or JSON; default: print.")] = None,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of CSV or text.")] = False,
    study: Annotated[str, typer.Option(help="UID of a study in the PACS, in place of images.")] = "",
    accession: Annotated[str, typer.Option(help="Its accession number, in place of --study.")] = "",
    pacs: Annotated[Path, typer.Option(help=PACS_HELP)] = Path("pacs.toml"),
    store: Annotated[
        bool, typer.Option("--store", help="Store a report and pictures in the study; pacs.toml must allow it.")
    ] = False,
) -> None:
    """Print the probability of each label for each image, the label called, and what this means. Research use only.

    A model of exams has one line for each exam: each subfolder, each volume, or rows of a manifest with one exam_id.
    What is unlike the training images gets a warning. Exit code 4 if an image cannot be read. With --study or
    --accession the images come from the PACS.
    """
    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.config.folders import NOTE_FILE
    from cdtl_core.errors import ConfigError
    from cdtl_core.inference.model_folder import read_note
    from cdtl_core.results.answer import answer

    note = read_note(model / NOTE_FILE)  # a wrong folder is said first, whatever the images are
    if study or accession:
        from cdtl_core.cli.predict_study import Wanted, predict_study

        if images or box:
            raise ConfigError("--study and --accession take the place of images and boxes: leave one of them out.")
        found = predict_study(model, note, Wanted(study, accession, pacs, store=store))
    elif store or not images:
        raise ConfigError("there is nothing to predict: give images, or a study with --study or --accession.")
    else:
        with showing_progress():
            found = answer(model, images, box or ())
    _show(found, out, csv_=csv_, json_=json_)


def _show(found: "Answer", out: Path | None, *, csv_: bool, json_: bool) -> None:
    """Print or write an answer.

    Args:
        found: The answer.
        out: File to write; None: print.
        csv_: Print CSV.
        json_: JSON.
    """
    from cdtl_core.errors import DataError
    from cdtl_core.system.durable import replace_bytes

    text = _json(found) if json_ else _csv(found)
    if out is not None:
        replace_bytes(out, text.encode())
        typer.echo(f"{found.count(len(found.table.names))}, {found.table.kind} probabilities: {out}")
    elif json_ or csv_:
        typer.echo(text, nl=False)
    else:
        _print(found)
    if found.faults:
        more = f" and {len(found.faults) - _FAULTS} more" if len(found.faults) > _FAULTS else ""
        told = " ".join(found.faults[:_FAULTS])
        raise DataError(f"{found.count(len(found.faults))} cannot be read, all others were predicted: {told}{more}")


def _print(answer: "Answer") -> None:
    from cdtl_core.cli.screen import open_console

    table, console = answer.table, open_console(width=100)
    shown = Table(box=None, pad_edge=False)
    shown.add_column(table.unit, overflow="fold")
    if table.unit != "image":
        shown.add_column("images", justify="right")
    for label in table.labels:
        shown.add_column(f"p_{visible(label)}", justify="right", no_wrap=True)
    shown.add_column("called" if answer.threshold is None else f"called (from {answer.threshold:.3f})")
    shown.add_column("like training")
    for row in answer.rows:
        like = {True: Text("yes"), False: Text("UNLIKE", "bold red"), None: Text("?")}[row.like]
        values = [f"{value:.3f}" for value in row.probabilities]
        images = [str(row.images)] if table.unit != "image" else []
        shown.add_row(Text(visible(row.name, _MOST_PATH)), *images, *values, Text(visible(row.called) or "-"), like)
    console.print(shown)
    warned = [row for row in answer.rows if row.unlike]
    if warned:
        told = f"{len(warned)} of {answer.count(len(table.names))} are unlike those that the model was trained on."
        console.print(Text(f"\n{told} Do not rely on what it says about them:", "bold red"))
        for row in warned[:_WARNED]:
            console.print(Text(f"  {visible(row.name, _MOST_PATH)}: {'; '.join(map(visible, row.unlike))}."))
        if len(warned) > _WARNED:
            console.print(Text(f"  and {len(warned) - _WARNED} more; --csv lists all."))
    console.print()
    for sentence in filter(None, (*answer.meaning, table.not_judged)):
        console.print(Text(visible(sentence, _MOST_PATH)))
    console.print("Research use only, not a medical device.")


def _csv(answer: "Answer") -> str:
    text, table = io.StringIO(), answer.table
    writer = csv.writer(text, lineterminator="\n")
    labels = (f"p_{visible(label)}" for label in table.labels)
    first = ["file"] if table.unit == "image" else [table.unit, "images"]
    writer.writerow([*first, *labels, "probabilities", "called", "like_training", "unlike_because"])
    for row in answer.rows:
        like = {True: "yes", False: "no", None: "unknown"}[row.like]
        values = [
            *([] if table.unit == "image" else [str(row.images)]),
            *(f"{value:.6f}" for value in row.probabilities),
        ]
        told = [table.kind, visible(row.called), like, "; ".join(row.unlike)]
        writer.writerow([visible(row.name, _MOST_PATH), *values, *told])
    return text.getvalue()


def _json(answer: "Answer") -> str:
    table = answer.table
    rows = [
        {
            **({"file": row.name} if table.unit == "image" else {table.unit: row.name, "images": row.images}),
            "probabilities": dict(zip(table.labels, row.probabilities, strict=True)),
            "called": row.called or None,
            "like_training": row.like,
            "unlike_because": list(row.unlike),
        }
        for row in answer.rows
    ]
    told = {"kind": table.kind, "positive": table.positive, "threshold": answer.threshold}
    meaning = [*answer.meaning, *filter(None, [table.not_judged])]
    return (
        json.dumps({**told, "predictions": rows, "meaning": meaning, "unreadable": list(answer.faults)}, indent=1)
        + "\n"
    )
