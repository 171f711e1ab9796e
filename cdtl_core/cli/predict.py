"""`cdtl predict`: probabilities for images, from a model folder."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict"]


def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, e.g. runs/demo/sites/north.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write; default: print it.")] = None,
) -> None:
    """Write the probability of each label for each IMAGE; says whether they are calibrated. Research use only."""
    from cdtl_core.durable import replace_bytes
    from cdtl_core.federation.predict import predict_images

    table = predict_images(model, images)
    lines = [["file", *(f"p_{label}" for label in table.labels), "probabilities"]]
    for path, row in zip(images, table.probabilities, strict=True):
        lines.append([str(path), *(f"{value:.6f}" for value in row), table.kind])
    if out is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
        return
    replace_bytes(out, "".join(",".join(_quoted(cell) for cell in line) + "\n" for line in lines).encode())
    typer.echo(f"{len(images)} images, {table.kind} probabilities: {out}")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\n') else cell
