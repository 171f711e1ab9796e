"""The lesion shows in one of eight images of an exam: what pooling gains over the exam's label on every image.

::

    python -m simulations.studies.exam_lesion --seeds 5 [--modality mri] [--other-lesions 0]

SYNTHETIC exams: 100 for training, 20 for validation, 200 for the test; another seed has other patients. The
arm `lesion known` has the image with the lesion only: no hospital knows it, so it is what is left to gain. The
protocol is in docs/protocol.md.
"""

import argparse
import csv
import tempfile
from pathlib import Path

from cdtl_core.config import RunConfig
from cdtl_core.data.synthetic.writing import write_phantoms
from simulations.studies.exam_arms import IMAGES, Cell, play, pooled_arm, print_table

TRAIN, VALIDATION, TEST, COUNT, SIZE, BATCH = 100, 20, 200, 8, 128, 24
RUN = RunConfig.model_validate(
    {
        "method": "alone",
        "image": {"size": SIZE},
        "model": {"levels": [4, 5, 6, 7]},
        "train": {"freeze": 7, "views": 2, "steps": 48, "lr": 0.002, "batch_size": BATCH, "exam_images": COUNT},
        "federation": {"rounds": 6},
    }
)
ARMS = {
    "every image labelled": {**IMAGES, "train": {"batch_size": BATCH * COUNT}},  # as many images in a step
    **{pooling: pooled_arm(pooling) for pooling in ("mean", "max", "lse", "attention")},
}


def main() -> None:
    """Play all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--modality", default="mri")
    parser.add_argument("--other-lesions", type=float, default=0.0, help="share of other images with a benign lesion")
    options = parser.parse_args()
    cells = [_cell(seed, options.modality, options.other_lesions) for seed in range(options.seeds)]
    print_table(cells, ("every image labelled, mean", "every image labelled, highest"))


def _cell(seed: int, modality: str, others: float) -> Cell:
    run = RUN.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory(prefix="exam-lesion-") as place:
        several = _play(Path(place) / "several", run, modality, COUNT, others)
        known = _play(Path(place) / "one", run, modality, 1, others)
    scores = {**several.scores, "lesion known": known.scores["mean"]}
    if several.exams != known.exams or (several.positive != known.positive).any():
        raise RuntimeError("the two sites do not hold the same patients")
    names = tuple(f"{seed}/{exam}" for exam in several.exams)
    return Cell(seed, names, several.positive, scores)


def _play(home: Path, run: RunConfig, modality: str, count: int, others: float) -> Cell:
    patients = 2 * TRAIN + TEST
    manifest = write_phantoms(
        home / "data",
        modality=modality,
        num_patients=patients,
        seed=1000 + run.seed,
        size=SIZE,
        train=TRAIN,
        images=(count, count),
        other_lesions=others,
    )
    _shorten(manifest)
    own = {
        "site": "north",
        "modality": modality,
        "data": {"root": str(manifest.parent), "manifest": manifest.name},
    }
    return play(home / "site", own, run, ARMS if count > 1 else {"mean": pooled_arm("mean")})


def _shorten(manifest: Path) -> None:
    """Keep the first validation exams only: a hospital with 100 exams does not hold as many back."""
    rows = list(csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()))
    held = sorted({row["exam_id"] for row in rows if row["split"] == "val"})[:VALIDATION]
    rows = [row for row in rows if row["split"] != "val" or row["exam_id"] in held]
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
