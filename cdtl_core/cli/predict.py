"""`cdtl predict`: what a model says about images or exams, in words, as CSV or as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.inference.predict import Prediction

__all__ = ["predict"]

_MOST_PATH = 4096
_WARNED = 10  # images whose reasons are printed
_FAULTS = 3


@dataclass(frozen=True)
class _Answer:
    """A prediction, the label called for each image or exam, and what it means in sentences.

    Attributes:
        table: The prediction.
        called: Label of each, N; empty texts without an operating point.
        threshold: The operating point.
        meaning: Sentences.
        faults: Why images or exams could not be read.
    """

    table: "Prediction"
    called: tuple[str, ...]
    threshold: float | None
    meaning: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What has a probability: image, exam or patient."""
        return self.table.unit

    def count(self, number: int) -> str:
        """Return a number of them in words."""
        return f"{number} {self.unit}{'' if number == 1 else 's'}"


def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, e.g. runs/demo/sites/north.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, exams (a folder, a volume), folders of them, patterns such as '*.png', or a manifest.csv."
        ),
    ],
    box: Annotated[
        list[str] | None, typer.Option(help="x,y,width,height of the lesion, once per image, for a model of lesions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write, as CSV or JSON; default: print.")] = None,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of CSV or text.")] = False,
) -> None:
    """Print the probability of each label for each image, the label called, and what this means. Research use only.

    A model of exams has one line for each exam: each subfolder, each volume, or rows of a manifest with one exam_id.
    What is unlike the training images gets a warning. Exit code 4 if an image cannot be read.
    """
    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.config.folders import NOTE_FILE
    from cdtl_core.errors import DataError
    from cdtl_core.inference.model_folder import read_note
    from cdtl_core.system.durable import replace_bytes

    read_note(model / NOTE_FILE)  # a wrong folder is said first, whatever the images are
    with showing_progress():
        answer = _answer(model, images, box or ())
    text = _json(answer) if json_ else _csv(answer)
    if out is not None:
        replace_bytes(out, text.encode())
        typer.echo(f"{answer.count(len(answer.table.names))}, {answer.table.kind} probabilities: {out}")
    elif json_ or csv_:
        typer.echo(text, nl=False)
    else:
        _print(answer)
    if answer.faults:
        more = f" and {len(answer.faults) - _FAULTS} more" if len(answer.faults) > _FAULTS else ""
        told = " ".join(answer.faults[:_FAULTS])
        raise DataError(f"{answer.count(len(answer.faults))} cannot be read, all others were predicted: {told}{more}")


def _answer(model: Path, given: Sequence[Path], boxes: Sequence[str]) -> _Answer:
    from cdtl_core.inference.predict import predict as predict_units
    from cdtl_core.results.calling import (
        calibration_sentence,
        call_labels,
        operating_sentences,
        other_labels_sentence,
        threshold_of,
    )
    from cdtl_core.results.card import load_card

    faults: list[str] = []
    table = predict_units(model, given, boxes, unreadable=lambda _, error: faults.append(str(error)))
    card = load_card(model)
    threshold = threshold_of(card, table.weights_sha256)
    called = call_labels(table.probabilities, table.labels, table.positive, threshold)
    other = other_labels_sentence(table.labels, card)
    meaning = (*operating_sentences(card), calibration_sentence(table.kind, card), other)
    return _Answer(table, called, threshold, meaning, tuple(faults))


def _print(answer: _Answer) -> None:
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
    for (path, row, called, unlike), count in zip(_rows(answer), table.image_counts, strict=True):
        like = Text("UNLIKE", "bold red") if unlike else Text("?" if table.not_judged else "yes")
        values = [f"{value:.3f}" for value in row]
        images = [str(count)] if table.unit != "image" else []
        shown.add_row(Text(visible(path, _MOST_PATH)), *images, *values, Text(visible(called) or "-"), like)
    console.print(shown)
    warned = [(path, unlike) for path, *_, unlike in _rows(answer) if unlike]
    if warned:
        told = f"{len(warned)} of {answer.count(len(table.names))} are unlike those that the model was trained on."
        console.print(Text(f"\n{told} Do not rely on what it says about them:", "bold red"))
        for path, unlike in warned[:_WARNED]:
            console.print(Text(f"  {visible(path, _MOST_PATH)}: {'; '.join(map(visible, unlike))}."))
        if len(warned) > _WARNED:
            console.print(Text(f"  and {len(warned) - _WARNED} more; --csv lists all."))
    console.print()
    for sentence in filter(None, (*answer.meaning, table.not_judged)):
        console.print(Text(visible(sentence, _MOST_PATH)))
    console.print("Research use only, not a medical device.")


def _rows(answer: _Answer) -> list[tuple[str, list[float], str, tuple[str, ...]]]:
    table = answer.table
    values = [[float(value) for value in row] for row in table.probabilities]
    return list(zip(table.names, values, answer.called, table.unlike, strict=True))


def _like(answer: _Answer, unlike: Sequence[str]) -> bool | None:
    """Return whether an image is like the training images; None if it cannot be judged."""
    return False if unlike else None if answer.table.not_judged else True


def _csv(answer: _Answer) -> str:
    text, table = io.StringIO(), answer.table
    writer = csv.writer(text, lineterminator="\n")
    labels = (f"p_{visible(label)}" for label in table.labels)
    first = ["file"] if table.unit == "image" else [table.unit, "images"]
    writer.writerow([*first, *labels, "probabilities", "called", "like_training", "unlike_because"])
    for (path, row, called, unlike), count in zip(_rows(answer), table.image_counts, strict=True):
        like = {True: "yes", False: "no", None: "unknown"}[_like(answer, unlike)]
        values = [*([] if table.unit == "image" else [str(count)]), *(f"{value:.6f}" for value in row)]
        writer.writerow([visible(path, _MOST_PATH), *values, table.kind, visible(called), like, "; ".join(unlike)])
    return text.getvalue()


def _json(answer: _Answer) -> str:
    table = answer.table
    rows = [
        {
            **({"file": path} if table.unit == "image" else {table.unit: path, "images": count}),
            "probabilities": dict(zip(table.labels, row, strict=True)),
            "called": called or None,
            "like_training": _like(answer, unlike),
            "unlike_because": list(unlike),
        }
        for (path, row, called, unlike), count in zip(_rows(answer), table.image_counts, strict=True)
    ]
    told = {"kind": table.kind, "positive": table.positive, "threshold": answer.threshold}
    meaning = [*answer.meaning, *filter(None, [table.not_judged])]
    return (
        json.dumps({**told, "predictions": rows, "meaning": meaning, "unreadable": list(answer.faults)}, indent=1)
        + "\n"
    )
