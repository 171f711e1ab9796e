"""`cdtl model`: show a released model and export it."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdtl_core.cli.help import new_app

__all__ = ["app"]


class Which(StrEnum):
    """Models of a folder."""

    USED, OWN, JOINT = "used", "own", "joint"


app = new_app("Show a model, and export it.")
Folder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A model folder, e.g. runs/demo/sites/north.")]


@app.command("card")
def card(folder: Folder, json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print a model's card: description, performance and limits."""
    from cdtl_core.errors import ModelError
    from cdtl_core.results.card import load_card
    from cdtl_core.results.text import card_markdown

    found = load_card(folder)
    if found is None:
        raise ModelError(f"{folder} holds no model_card.json: give a model folder written by this version of cdtl.")
    typer.echo(found.model_dump_json(indent=1) if json_ else card_markdown(found), nl=json_)


@app.command("export")
def export(
    folder: Folder,
    onnx: Annotated[Path, typer.Option(help="File to write.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images for the comparison; default: synthetic ones.")
    ] = None,
    model: Annotated[Which, typer.Option(help="The model the site uses, its own, or the joint one.")] = Which.USED,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model as ONNX, images in [0, 1] to calibrated probabilities, and compare it with torch."""
    from cdtl_core.inference.export import TOLERANCE, export_onnx

    done = export_onnx(folder, onnx, tuple(images or ()), model.value)
    if json_:
        told = {"onnx": str(done.path), "bytes": done.bytes, "images": done.images}
        typer.echo(json.dumps({**told, "largest_difference": done.largest_difference, "allowed": TOLERANCE}, indent=1))
        return
    typer.echo(
        f"{done.path} ({done.bytes / 1e6:.1f} MB): on {done.images} images its probabilities differ from torch's by at "
        f"most {done.largest_difference:.1g} (allowed {TOLERANCE:g}). Research use only."
    )
