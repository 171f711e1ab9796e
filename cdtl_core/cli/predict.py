"""`cdtl predict`: probabilities for images, from a model folder."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.inference.predict import Prediction

__all__ = ["predict"]

_MOST_PATH = 4096


def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, e.g. runs/demo/sites/north.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    box: Annotated[
        list[str] | None, typer.Option(help="x,y,width,height of the lesion, once per image, for a model of lesions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: print it.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of CSV.")] = False,
) -> None:
    """Write the probability of each label for each IMAGE, calibrated or raw. Research use only."""
    from cdtl_core.inference.predict import predict as score_images
    from cdtl_core.system.durable import replace_bytes

    table = score_images(model, images, box or ())
    if json_:
        text = _json(table, images)
        typer.echo(text) if out is None else replace_bytes(out, f"{text}\n".encode())
        return
    lines = [["file", *(f"p_{visible(label)}" for label in table.labels), "probabilities"]]
    for path, row in zip(images, table.probabilities, strict=True):
        lines.append([visible(path, _MOST_PATH), *(f"{value:.6f}" for value in row), table.kind])
    if out is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
        return
    replace_bytes(out, "".join(",".join(_quoted(cell) for cell in line) + "\n" for line in lines).encode())
    typer.echo(f"{len(images)} images, {table.kind} probabilities: {out}")


def _json(table: "Prediction", images: list[Path]) -> str:
    rows = [
        {"file": str(path), "probabilities": dict(zip(table.labels, map(float, row), strict=True))}
        for path, row in zip(images, table.probabilities, strict=True)
    ]
    return json.dumps({"kind": table.kind, "predictions": rows}, indent=1)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\n') else cell
