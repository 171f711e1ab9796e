"""Backbones at a single site: AUROC by image of own models on the same folds: frozen, with adapters, fine-tuned.

::

    python -m simulations.studies.backbones ../shared/data --set bus_bra --arms 0,1,2,3,4
    python -m simulations.studies.backbones ../shared/data --set bus_bra --arms 5,6,7 --device cuda:0 --jobs 6

BUS-BRA has official folds of its women. The patients (or groups of near-duplicates) of the other sets are dealt into
five folds by a hash of seed and patient, within each label. A fold is tested, the next one validates, the other three
train. Frozen features have the settings of configs/scarce.toml with two views; ``lite0_levels`` has those of
configs/paper.toml. Where an arm has several choices (learning rates, or the layer), each fold takes the one with the
best AUROC of its validation images; ``--inner 4`` validates on each of the four other folds in turn. So the test fold
chooses nothing. Arms and choices were fixed before any result of them was seen. Images stay in DATA.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import changed_run, load_config, save_toml
from cdtl_core.metrics.metrics import auroc
from simulations.studies.exam_arms import Cell, Changes, Floats, print_table, trained

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


def _frozen(levels: Sequence[int]) -> Changes:
    return {"model": {**_DINOV2, "levels": list(levels)}, "train": {"freeze": 13}, "image": {"size": 196}}


def _tuned(lr: float, head: float, model: Changes, size: int) -> Changes:
    """Return settings that train a network for 22,400 images.

    Args:
        lr: Learning rate of the backbone.
        head: How many times as large it is for the head.
        model: The network.
        size: Side of the images.
    """
    train = {
        "freeze": 0, "views": 0, "steps": 35, "batch_size": 32, "lr": lr, "head_lr_factor": head, "weight_decay": 0.05,
        "augment": {"invert": 0, "gamma": 0, "blur": 0},
    }  # fmt: skip
    return {
        "model": {"levels": [], "regions": "whole", **model}, "train": train, "federation": {"rounds": 20},
        "image": {"size": size},
    }  # fmt: skip


ARMS: Mapping[str, Sequence[Changes]] = {
    "Lite0, stages 6 and 7": ({},),
    "Lite2, stages 6 and 7": ({"model": {"backbone": "tf_efficientnet_lite2"}},),
    "lite0_levels": (_PAPER,),
    "DINOv2-small, blocks 6 and 9": (_frozen([7, 10]),),
    "DINOv2-small, blocks 9 and 12": (_frozen([10, 13]),),
    "DINOv2-small, adapters of rank 4": [_tuned(lr, 1, {**_DINOV2, "lora": 4}, 196) for lr in (2e-4, 1e-3)],
    "DINOv2-small, all blocks": [_tuned(lr, 10, _DINOV2, 196) for lr in (2e-5, 1e-4)],
    "Lite0, all stages": [_tuned(lr, 4, {"backbone": "efficientnet_lite0"}, 192) for lr in (1e-4, 5e-4)],
    "DINOv2-small, chosen block": [_frozen([stage]) for stage in (5, 7, 9, 10, 11, 13)],
    "Lite0, chosen stage": [{"model": {"levels": [stage]}} for stage in (4, 5, 6, 7)],
}


class Job(NamedTuple):
    """A training: the place of its settings in `ARMS`, the seed, and the folds (from 0) that test and validate."""

    arm: str
    choice: int
    seed: int
    test: int
    val: int


def main() -> None:
    """Play all seeds and folds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the sets")
    parser.add_argument("--set", choices=tuple(SETS), required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default="0,1,2,3,4", help="numbers of arms, from 0")
    parser.add_argument("--inner", type=int, default=1, choices=range(1, FOLDS), help="folds that validate a choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", help="of networks that are trained on a GPU")
    parser.add_argument("--weights", type=Path, help="a .safetensors file of DINOv2-small, instead of the package's")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--scores", type=Path, help="a line of JSON for each training; those in it are not repeated")
    options = parser.parse_args()
    folder = options.data.absolute() / options.set
    rows = _rows(folder, SETS[options.set])
    names = [list(ARMS)[int(number)] for number in options.arms.split(",")]
    jobs = [job for name in names for job in _jobs(name, options.seeds, options.inner)]
    with tempfile.TemporaryDirectory(prefix="backbones-") as place:
        own = {"device": options.device, "compute": {"precision": options.precision}}
        given = (Path(place), folder, SETS[options.set], rows, own, options.weights)
        found = dict(_played(jobs, given, options.jobs, options.scores))
    patients = len({row["patient_id"] for row in rows})
    print(f"\n{options.set}: {len(rows)} images, {patients} patients, {options.seeds} seeds x {FOLDS} folds\n")
    for name in names:
        mine = [value for job, value in found.items() if job.arm == name]
        print(f"{name}: {sum(one['seconds'] for one in mine) / len(mine):.0f} s of processors for a training")
    print()
    print_table([_cell(found, names, seed, fold) for seed in range(options.seeds) for fold in range(FOLDS)], names[:1])


def _jobs(arm: str, seeds: int, inner: int) -> Iterator[Job]:
    """Yield the trainings of an arm; all folds of one network in turn, since the feature cache keeps few of them."""
    choices = range(len(ARMS[arm]))
    for choice in choices:
        for seed in range(seeds):
            for test in range(FOLDS):
                for step in range(1, 1 + (inner if len(choices) > 1 else 1)):
                    yield Job(arm, choice, seed, test, (test + step) % FOLDS)


def _played(
    jobs: Sequence[Job], given: tuple[Any, ...], at_a_time: int, scores: Path | None
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its result, those of `scores` first.

    Args:
        jobs: The trainings.
        given: Arguments of `_play`.
        at_a_time: Number of processes; 1: this one.
        scores: File to read finished trainings from, and to add new ones to; or None.
    """
    done = {}
    if scores is not None and scores.exists():
        lines = map(json.loads, scores.read_text(encoding="utf-8").splitlines())
        done = {Job(*line["job"]): line for line in lines}
    yield from ((job, done[job]) for job in jobs if job in done)
    left = [job for job in jobs if job not in done]
    with ProcessPoolExecutor(at_a_time, multiprocessing.get_context("spawn")) as pool:
        played = map(_play, left, [given] * len(left)) if at_a_time == 1 else pool.map(_play, left, [given] * len(left))
        for job, found in zip(left, played, strict=True):
            print(*job, f"val {found['val']:.3f}, {found['wall']:.0f} s", flush=True)
            if scores is not None:
                with open(scores, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"job": job, **found}) + "\n")
            yield job, found


def _cell(found: Mapping[Job, Mapping[str, Any]], names: Sequence[str], seed: int, fold: int) -> Cell:
    """Return the test images of a fold, with their scores by each arm's best choice on validation images.

    Args:
        found: All trainings.
        names: The arms.
        seed: The seed.
        fold: The fold that is tested.
    """
    scores: dict[str, Floats] = {}
    last: Mapping[str, Any] = {}
    for name in names:
        mine = {job: value for job, value in found.items() if (job.arm, job.seed, job.test) == (name, seed, fold)}
        choices = sorted({job.choice for job in mine})
        means = [np.mean([value["val"] for job, value in mine.items() if job.choice == one]) for one in choices]
        last = mine[Job(name, choices[int(np.argmax(means))], seed, fold, (fold + 1) % FOLDS)]
        scores[name] = np.array(last["scores"])
    return Cell(seed, tuple(last["images"]), np.array(last["positive"], np.bool_), scores)


def _play(job: Job, given: tuple[Any, ...]) -> dict[str, Any]:
    """Train a site alone; return names, truth and scores of its test images, the AUROC of validation, seconds.

    Args:
        job: The training.
        given: A folder to work in; that of the set; what the set is; rows of its manifest; settings of the site; a file
            with weights of DINOv2, or None.
    """
    place, folder, site, rows, own, weights = given
    place = place / str(os.getpid())  # processes would write the same features
    place.mkdir(exist_ok=True)
    base = changed_run(load_config("scarce").run, {"method": "alone", "train": {"views": 2}}, "the study")
    run = changed_run(base, {**ARMS[job.arm][job.choice], "seed": job.seed}, job.arm)
    if weights is not None and run.model.backbone == _DINOV2["backbone"]:
        run = changed_run(run, {"model": {"weights": str(weights.absolute())}}, job.arm)
    manifest = _manifest(place, folder, site, rows, job)
    data = {"root": str(place), "manifest": manifest.name, **({"box": site["box"]} if "box" in site else {})}
    save_toml(place / "site" / SITE_FILE, {"site": folder.name, "modality": site["modality"], "data": data, **own})
    began, used = time.monotonic(), time.process_time()
    found = trained(place / "site", run)
    wall, seconds = time.monotonic() - began, time.process_time() - used
    names, positive, scores = found["test"]
    return {
        "images": names, "positive": positive.tolist(), "scores": scores.tolist(),
        "val": auroc(*found["val"][1:]), "wall": wall, "seconds": seconds,
    }  # fmt: skip


def _rows(folder: Path, site: Mapping[str, Any]) -> list[dict[str, str]]:
    with open(folder / site.get("manifest", "manifest.csv"), newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in {"benign", "malignant"}]
    return [row for row in rows if float(row.get("tissue_fraction") or 1) >= LEAST_TISSUE]


def _manifest(place: Path, folder: Path, site: Mapping[str, Any], rows: Sequence[Mapping[str, str]], job: Job) -> Path:
    """Write the manifest of a training and return its path.

    Args:
        place: Its folder.
        folder: Folder of the set.
        site: What the set is.
        rows: Rows of its manifest.
        job: The training.
    """
    fold_of = _folds(rows, job.seed)
    split = {job.test: "test", job.val: "val"}
    extra = [site["box"][key] for key in ("column", "scale")] if "box" in site else []
    manifest = place / f"manifest-{job.seed}-{job.test}-{job.val}.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient_id", "split", *extra])
        for row in rows:
            cells = [str(folder / row["file"]), row["label"], row["patient_id"]]
            writer.writerow([*cells, split.get(fold_of[row["patient_id"]], "train"), *(row[name] for name in extra)])
    return manifest


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
