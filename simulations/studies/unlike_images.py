"""How many images get the warning of `cdtl predict`, from the same set and from other sets, on real images.

::

    python -m simulations.studies.unlike_images ../shared/data

Each of four breast-imaging sets in turn is the training cohort. Its patients are divided at random 60 : 15 : 25 into
training, validation and left out, ten times. The features are those of an ImageNet `efficientnet_lite0` at 128 pixels.
The header of a DICOM file plays no part here. docs/checks.md shows the table.
"""

import argparse
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.config import ModelConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.decode.read import fit_square, read_image
from cdtl_core.data.source import rows_of_manifest
from cdtl_core.inference.likeness import Likeness, gauge_of, has_colour, measure
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.weights import load_into
from cdtl_core.training.device import CPU
from cdtl_core.training.scoring import embed

SETS = ("bus_bra", "busi", "mini_mias", "ucsb_he")
IMAGES = 260
EACH = {"ucsb_he": 8}  # images of a patient; 2 of the other sets
SIDE = 128
DRAWS = 10


@dataclass(frozen=True)
class Images:
    """Squares N 3 H W, their features N D, and the number of each image's patient, N."""

    squares: npt.NDArray[np.uint8]
    features: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]


def load(folder: Path, model: Classifier) -> Images:
    """Return a few images of each patient of a set, in random order of the patients."""
    rows = sorted(rows_of_manifest(folder / "manifest.csv"), key=lambda row: row.patient)
    groups = [list(group)[: EACH.get(folder.name, 2)] for _, group in groupby(rows, key=lambda row: row.patient)]
    np.random.default_rng(0).shuffle(groups)  # a list of lists is shuffled in place
    chosen = [(number, row) for number, group in enumerate(groups) for row in group][:IMAGES]
    squares = [fit_square(read_image(row.file), SIDE) for _, row in chosen]
    colour = np.stack([np.repeat(one[None], 3, 0) if one.ndim == 2 else one.transpose(2, 0, 1) for one in squares])
    count = np.arange(len(colour))
    features = embed(model, Fold(colour, count, count, count), device=CPU)
    return Images(colour, features, np.array([number for number, _ in chosen]))


def warned(likeness: Likeness, images: Images, which: npt.NDArray[np.bool_]) -> float:
    """Return the share of these images that get a warning."""
    found = zip(images.squares[which], images.features[which], strict=True)
    return float(np.mean([bool(likeness.reasons(square, features)) for square, features in found]))


def main() -> None:
    """Print one row for each cohort: the share of warned images by the set that they are from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the four sets")
    config = ModelConfig(backbone="efficientnet_lite0")
    model = build_classifier(config, 2, SIDE)
    load_into(model, build_initial_weights(config, 0, SIDE))
    data = parser.parse_args().data
    sets = {name: load(data / name, model) for name in SETS}
    print(f"{'cohort':10}", *(f"{name:>10}" for name in SETS))
    for name, images in sets.items():
        shares = [_shares(name, images, sets, seed) for seed in range(DRAWS)]
        print(f"{name:10}", *(f"{100 * share:8.1f} %" for share in np.mean(shares, axis=0)))


def _shares(name: str, images: Images, sets: dict[str, Images], seed: int) -> list[float]:
    order = np.random.default_rng(seed).permutation(images.patients.max() + 1)
    place = order[images.patients] / len(order)
    train, val, rest = place < 0.6, (place >= 0.6) & (place < 0.75), place >= 0.75
    measures = np.stack([measure(square) for square in images.squares])
    likeness = Likeness(
        weights_sha256="",
        images=int(train.sum()),
        validation=int(val.sum()),
        coloured=float(np.mean([has_colour(square) for square in images.squares[train]])),
        pixels=gauge_of(measures[train], measures[val]),
        features=gauge_of(images.features[train], images.features[val]),
    )
    every = {other: np.ones(len(found.squares), bool) for other, found in sets.items()} | {name: rest}
    return [warned(likeness, found, every[other]) for other, found in sets.items()]


if __name__ == "__main__":
    main()
