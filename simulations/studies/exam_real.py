"""Exams of real images: BUS-BRA by woman and UCSB histology by slide, pooled, and by the scores of their images.

::

    python -m simulations.studies.exam_real ../shared/data --set bus_bra --seeds 3
    python -m simulations.studies.exam_real ../shared/data --set ucsb_he --seeds 5

BUS-BRA has official folds of its women. UCSB has ten blocks of slides, which each seed shuffles and deals in pairs. A
fold is tested, the next one validates, the other three train. Settings of configs/scarce.toml with two views. The
protocol is in docs/protocol.md. Images stay in DATA.
"""

import argparse
import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.config import RunConfig
from cdtl_core.config.settings import changed_run, load_config
from simulations.studies.exam_arms import IMAGES, Cell, play, pooled_arm, print_table

FOLDS = 5
EXAM = {"bus_bra": "patient_id", "ucsb_he": "case_id"}
LEAST_TISSUE = 0.25
SITES: Mapping[str, dict[str, Any]] = {
    "bus_bra": {"modality": "ultrasound", "box": {"column": "bbox_orig_xywh", "scale": "scale"}},
    "ucsb_he": {"modality": "histology"},
}
ARMS = {"every image labelled": IMAGES, **{name: pooled_arm(name) for name in ("mean", "max", "lse", "attention")}}


def main() -> None:
    """Play all seeds and folds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the sets")
    parser.add_argument("--set", choices=tuple(EXAM), required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--exam-images", type=int, default=8, help="most images of an exam in a step")
    options = parser.parse_args()
    with open(options.data / options.set / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if float(row.get("tissue_fraction", 1)) >= LEAST_TISSUE]
    run = changed_run(load_config("scarce").run, _settings(options.exam_images), "the study")
    with tempfile.TemporaryDirectory(prefix="exam-real-") as place:
        cells = [
            _cell(Path(place), options.data.absolute(), options.set, rows, run, seed, fold)
            for seed in range(options.seeds)
            for fold in range(FOLDS)
        ]
    exams = len({exam for cell in cells for exam in cell.exams})
    print(f"{options.set}: {len(rows)} images, {exams} exams, {options.seeds} seeds x {FOLDS} folds\n")
    print_table(cells, ("every image labelled, mean",))


def _settings(exam_images: int) -> dict[str, Any]:
    return {"method": "alone", "train": {"views": 2, "exam_images": exam_images}}


def _cell(
    place: Path, data: Path, name: str, rows: Sequence[Mapping[str, str]], run: RunConfig, seed: int, fold: int
) -> Cell:
    """Play one fold.

    Args:
        place: Folder for the site, shared by all cells so that features are computed once.
        data: Folder with the sets.
        name: Name of the set.
        rows: Rows of its manifest.
        run: Settings of all arms.
        seed: Of the training, and of the folds of UCSB.
        fold: The fold that is tested, from 0.
    """
    folds = _folds(name, rows, seed)
    split = {fold: "test", (fold + 1) % FOLDS: "val"}
    site = SITES[name]
    extra = [site["box"][key] for key in ("column", "scale")] if "box" in site else []
    manifest = place / f"manifest-{seed}-{fold}.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient_id", "exam_id", "split", *extra])
        for row in rows:
            cells = [str(data / name / row["file"]), row["label"], row["patient_id"], row[EXAM[name]]]
            writer.writerow([*cells, split.get(folds[row["patient_id"]], "train"), *(row[column] for column in extra)])
    own = {"site": name, "modality": site["modality"], "data": {"root": str(place), "manifest": manifest.name}}
    own["data"] |= {"box": site["box"]} if "box" in site else {}
    return play(place / "site", own, run.model_copy(update={"seed": seed}), ARMS)


def _folds(name: str, rows: Sequence[Mapping[str, str]], seed: int) -> dict[str, int]:
    """Return patient to fold, from 0: the official ones, or blocks of slides dealt in the order of a seed."""
    if name == "bus_bra":
        return {row["patient_id"]: int(row["official_5fold"]) - 1 for row in rows}
    blocks = sorted({row["patient_id"] for row in rows})
    order = np.random.default_rng(seed).permutation(len(blocks))
    return {blocks[place]: number % FOLDS for number, place in enumerate(order.tolist())}


if __name__ == "__main__":
    main()
