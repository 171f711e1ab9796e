"""The job that every arm plays: images of four sites, the split, the initial weights, and cdtl's own settings.

::

    FOLDER/images/<site>/manifest.csv, images/*.png    what every arm reads
    FOLDER/job.json                                    sites, splits, rounds, steps
    FOLDER/initial_weights.pt                          the common start, for the arms that are not cdtl
    FOLDER/config.toml                                 the same job for `cdtl simulate`
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import load_simulation, save_toml

__all__ = ["JOBS", "Job", "prepare"]

_SITES = {"aachen": "ultrasound", "bergen": "ultrasound", "cadiz": "mammography", "delft": "histology"}


@dataclass(frozen=True)
class Job:
    """One job; sizes in pixels, `patients` at each site, `steps` in each round."""

    rounds: int
    steps: int
    backbone: str
    weights: str
    size: int
    patients: int
    batch_size: int = 24
    seed: int = 0


JOBS = {
    "train": Job(3, 12, "efficientnet_lite0", "imagenet", 128, 60),  # steps: the default
    "memory": Job(2, 3, "efficientnet_lite0", "imagenet", 128, 60),
    "empty": Job(5, 0, "resnet18", "random", 32, 12),
}


def prepare(job: Job, folder: Path) -> Path:
    """Write a job's folder and return it."""
    import torch

    from cdtl_core.data.synthetic.writing import write_phantoms
    from cdtl_core.models.initial_weights import build_initial_weights
    from cdtl_core.site.home import open_site

    tables = []
    for number, (site, modality) in enumerate(_SITES.items()):
        images = folder / "images" / site
        write_phantoms(images, modality=modality, num_patients=job.patients, seed=number, size=job.size)
        tables.append({"site": site, "modality": modality, "data": {"root": str(images), "manifest": "manifest.csv"}})
    save_toml(folder / "config.toml", {**_settings(job), "sites": tables})
    simulation = load_simulation(folder / "config.toml")
    sites: dict[str, Any] = {}
    for own in simulation.sites:
        home = folder / "homes" / own.site
        save_toml(home / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
        cohort = open_site(home, simulation.run).cohort
        folds = {name: [int(row) for row in fold.rows] for name, fold in cohort.folds.items()}
        labels = {name: [int(label) for label in fold.labels] for name, fold in cohort.folds.items()}
        weight = cohort.folds["train"].num_patients
        files = [str(folder / "images" / own.site / "images" / name) for name in cohort.files]
        sites[own.site] = {
            "modality": own.modality, "files": files, "rows": folds, "labels": labels, "patients": weight,
        }  # fmt: skip
    torch.save(build_initial_weights(simulation.run.model, job.seed, job.size), folder / "initial_weights.pt")
    (folder / "job.json").write_text(json.dumps({**asdict(job), "sites": sites}), encoding="utf-8")
    return folder


def _settings(job: Job) -> dict[str, Any]:
    """FedAvg with the defaults; without training also nothing that looks at images twice."""
    train: dict[str, Any] = {"steps": job.steps, "batch_size": job.batch_size}
    settings: dict[str, Any] = {
        "name": "bench",
        "seed": job.seed,
        "methods": ["fedbn"],
        "image": {"size": job.size},
        "model": {"backbone": job.backbone, "weights": job.weights},
        "train": train,
        "federation": {"rounds": job.rounds},
    }
    if not job.steps:
        train["refresh_norms"] = False
    return settings
