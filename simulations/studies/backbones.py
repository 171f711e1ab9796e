"""Backbones at a single site: AUROC by image of own models on the same folds, frozen features and heads.

::

    python -m simulations.studies.backbones ../shared/data --set bus_bra --seeds 1

BUS-BRA has official folds of its women. The patients (or groups of near-duplicates) of the other sets are dealt into
five folds by a hash of seed and patient, within each label. A fold is tested, the next one validates, the other three
train. Settings of configs/scarce.toml with two views; ``lite0_levels`` has those of configs/paper.toml. The arms were
chosen before any of them was seen. Images stay in DATA.
"""

import argparse
import csv
import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import changed_run, load_config, save_toml
from simulations.studies.exam_arms import Cell, Floats, print_table, trained

FOLDS = 5
SETS: Mapping[str, dict[str, Any]] = {
    "bus_bra": {"modality": "ultrasound", "box": {"column": "bbox_orig_xywh", "scale": "scale"}},
    "busi": {"modality": "ultrasound"},
    "mini_mias": {"modality": "mammography", "manifest": "roi_manifest.csv"},
    "ucsb_he": {"modality": "histology"},
}
LEAST_TISSUE = 0.25
_DINOV2 = {"backbone": "vit_small_patch14_dinov2", "regions": "whole"}
_CHANGES = ("flip", "rotate_deg", "translate", "scale", "brightness", "contrast", "noise", "invert", "gamma", "blur")
_PAPER = {
    "model": {"backbone": "lite0_levels", "levels": [], "regions": "whole", "dropout": 0.3},
    "train": {
        "freeze": 1,
        "views": 1,
        "steps": 30,
        "batch_size": 64,
        "lr": 3e-3,
        "lr_decay": 0.5,
        "head_lr_factor": 1,
        "weight_decay": 0.05,
        "augment": dict.fromkeys(_CHANGES, 0),
    },
    "federation": {"rounds": 10},
    "image": {"size": 128},
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "Lite0, stages 6 and 7": {},
    "Lite2, stages 6 and 7": {"model": {"backbone": "tf_efficientnet_lite2"}},
    "lite0_levels": _PAPER,
    "DINOv2-small, blocks 6 and 9": {
        "model": {**_DINOV2, "levels": [7, 10]}, "train": {"freeze": 13}, "image": {"size": 196},
    },
    "DINOv2-small, blocks 9 and 12": {
        "model": {**_DINOV2, "levels": [10, 13]}, "train": {"freeze": 13}, "image": {"size": 196},
    },
}  # fmt: skip


def main() -> None:
    """Play all seeds and folds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the sets")
    parser.add_argument("--set", choices=tuple(SETS), required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default=",".join(map(str, range(len(ARMS)))), help="numbers of arms, from 0")
    options = parser.parse_args()
    site = SETS[options.set]
    folder = options.data.absolute() / options.set
    with open(folder / site.get("manifest", "manifest.csv"), newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    rows = [row for row in found if row["label"] in {"benign", "malignant"}]
    rows = [row for row in rows if float(row.get("tissue_fraction") or 1) >= LEAST_TISSUE]
    run = changed_run(load_config("scarce").run, {"method": "alone", "train": {"views": 2}}, "the study")
    names = [list(ARMS)[int(number)] for number in options.arms.split(",")]
    cells = [Cell(seed, (), np.zeros(0, np.bool_), {}) for seed in range(options.seeds) for _ in range(FOLDS)]
    with tempfile.TemporaryDirectory(prefix="backbones-") as place:
        for name in names:  # all folds of one network in turn: the feature cache keeps few of them
            began, used = time.monotonic(), time.process_time()
            changed = changed_run(run, ARMS[name], name)
            for number, cell in enumerate(cells):
                own = changed.model_copy(update={"seed": cell.seed})
                images, truth, scores = _play(Path(place), folder, site, rows, own, number % FOLDS)
                cells[number] = Cell(cell.seed, images, truth, {**cell.scores, name: scores})
            spent = f"{time.monotonic() - began:.0f} s, {time.process_time() - used:.0f} s of processors"
            print(f"{name}: {spent}", flush=True)
    patients = len({row["patient_id"] for row in rows})
    print(f"\n{options.set}: {len(rows)} images, {patients} patients, {options.seeds} seeds x {FOLDS} folds\n")
    print_table(cells, (names[0],))


def _play(
    place: Path,
    folder: Path,
    site: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    run: RunConfig,
    fold: int,
) -> tuple[tuple[str, ...], npt.NDArray[np.bool_], Floats]:
    """Return names, truth and scores of the images of a fold.

    Args:
        place: Folder for the site, shared by all folds so that features are computed once.
        folder: Folder of the set.
        site: What the set is.
        rows: Rows of its manifest.
        run: Settings, with the seed.
        fold: The fold that is tested, from 0.
    """
    fold_of = _folds(rows, run.seed)
    split = {fold: "test", (fold + 1) % FOLDS: "val"}
    extra = [site["box"][key] for key in ("column", "scale")] if "box" in site else []
    manifest = place / f"manifest-{run.seed}-{fold}.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient_id", "split", *extra])
        for row in rows:
            cells = [str(folder / row["file"]), row["label"], row["patient_id"]]
            writer.writerow([*cells, split.get(fold_of[row["patient_id"]], "train"), *(row[name] for name in extra)])
    data = {"root": str(place), "manifest": manifest.name, **({"box": site["box"]} if "box" in site else {})}
    save_toml(place / "site" / SITE_FILE, {"site": folder.name, "modality": site["modality"], "data": data})
    return trained(place / "site", run)


def _folds(rows: Sequence[Mapping[str, str]], seed: int) -> dict[str, int]:
    """Return patient to fold, from 0: the official ones, or patients of each label dealt in an order of the seed."""
    if "official_5fold" in rows[0]:
        return {row["patient_id"]: int(row["official_5fold"]) - 1 for row in rows}
    malignant = {row["patient_id"] for row in rows if row["label"] == "malignant"}
    order = sorted(
        {row["patient_id"] for row in rows},
        key=lambda one: (one in malignant, hashlib.sha256(f"{seed}/{one}".encode()).digest()),
    )
    return {patient: number % FOLDS for number, patient in enumerate(order)}


if __name__ == "__main__":
    main()
