"""Three synthetic hospitals train together: what each one gains, and what its model says of a new image.

``python examples/quickstart.py FOLDER`` writes the run to FOLDER, which must be new. It takes a minute on two cores.
"""

import sys
from pathlib import Path

import cdtl_core as cdtl

SETTINGS = {
    "name": "quickstart",
    "image": {"size": 64},
    "model": {"levels": [4, 5, 6, 7]},  # features of four depths of EfficientNet-Lite0 with ImageNet weights
    "train": {"freeze": 7, "views": 1, "steps": 24, "lr": 0.002},  # those stages stay as they are: heads are trained
    "federation": {"rounds": 3},
    "sites": [
        {"site": "north", "modality": "ultrasound", "data": {"phantom": {"patients": 60, "seed": 1}}},
        {"site": "south", "modality": "mammography", "data": {"phantom": {"patients": 60, "seed": 2, "train": 10}}},
        {"site": "west", "modality": "mri", "data": {"phantom": {"patients": 60, "seed": 3}}},
    ],
}


def main(out: Path) -> None:
    """Simulate the federation in the folder `out`, then predict with the model of one site."""
    report = cdtl.simulate(cdtl.load_config(SETTINGS), out)
    for site in report.sites:
        gain = site.gain["cdtl-alone"].value or 0.0
        print(f"{site.name} ({site.modality}): {100 * gain:+.1f} AUROC points over local training")
    cdtl.write_phantoms(out / "new", modality="mammography", num_patients=4, seed=9, size=64)
    image = min((out / "new" / "images").iterdir())
    _, note = cdtl.load_model(out / "sites" / "south")
    found = cdtl.predict(out / "sites" / "south", [image])
    probability = found.probabilities[0, found.labels.index(note.positive)]
    print(f"the {note.chosen} model of {note.site}: {note.positive} with {found.kind} probability {probability:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
