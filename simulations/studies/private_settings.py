"""Settings that lose least to privacy: one site (bus_bra), no federation, settings changed one at a time.

::

    python -m simulations.studies.private_settings ../shared/data --seeds 5

750 training patients a seed, the rest test; every figure is test AUROC, mean over seeds, of one training of 4 rounds.
Noise has no seed, so figures move by some thousandths from run to run. Features are kept in CACHE between runs.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from cdtl_core.config import ModelConfig, RunConfig
from cdtl_core.config.settings import load_run
from cdtl_core.data.cohort import Fold
from cdtl_core.data.manifest import Case, read_manifest
from cdtl_core.data.pixels import load_pixels
from cdtl_core.metrics.metrics import auroc
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.weights import load_into, take
from cdtl_core.privacy.accounting import plan_noise
from cdtl_core.privacy.mechanism import Grant, Mechanism, without_noise
from cdtl_core.privacy.partial import fit_part
from cdtl_core.training.features import feature_views

CONFIG = Path(__file__).parents[2] / "configs" / "private.toml"
EPSILONS = (float("inf"), 8.0, 3.0)
PATIENTS, ROUNDS, SIZE, CPU = 750, 4, 128, torch.device("cpu")
VARIANTS = (
    (),
    ("model.levels=[6]",),
    ("dp.lr=0.1",),
    ("dp.lr=0.4",),
    ("dp.max_grad_norm=0.75",),
    ("dp.max_grad_norm=3.0",),
    ("dp.centre_steps=1",),
    ("dp.centre_steps=8",),
    ("dp.batch_patients=250",),
    ("train.steps=8",),
    ("train.steps=30",),
    ("train.ema=0.8",),
    ("model.adapter=4",),
    ("model.adapter=16",),
    ("model.levels=[8]",),
    ("model.levels=[9]",),
    ("model.levels=[6, 7, 8, 9]",),
    ("dp.views=4", "dp.multiplicity=8"),
)


def main() -> None:
    """Print a table, a row when it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cdtl_private_settings")
    options = parser.parse_args()
    cases = read_manifest(
        options.data / "bus_bra" / "manifest.csv", labels=("benign", "malignant"), label_map={}, where={}
    )  # fmt: skip
    print("| changed | " + " | ".join(f"epsilon {epsilon:g}" for epsilon in EPSILONS) + " |")
    print("|---|" + "---|" * len(EPSILONS))
    for changes in VARIANTS:
        config = load_run(CONFIG, changes)
        cells = [cell(cases, config, epsilon, options) for epsilon in EPSILONS]
        print(f"| {', '.join(changes) or 'configs/private.toml'} | " + " | ".join(cells) + " |", flush=True)


def cell(cases: tuple[Case, ...], config: RunConfig, epsilon: float, options: argparse.Namespace) -> str:
    """Mean over seeds with its standard error."""
    found = [one(cases, config, epsilon, seed, options.cache) for seed in range(options.seeds)]
    return f"{np.mean(found):.3f} +- {np.std(found, ddof=1) / len(found) ** 0.5:.3f}"


def one(cases: tuple[Case, ...], config: RunConfig, epsilon: float, seed: int, cache: Path) -> float:
    """Train once, and score the other patients."""
    model, initial_weights = network(config.model)
    train, test = folds(cases, seed, cache)
    state = {**initial_weights, **{name: torch.zeros_like(value) for name, value in heads(model).items()}}
    load_into(model, state)
    steps, centre = config.train.steps, config.dp.centre_steps
    rate = config.dp.batch_patients / PATIENTS or 1.0
    mechanism = without_noise(PATIENTS)
    if epsilon < float("inf"):
        noise = plan_noise(
            (), target_epsilon=epsilon, target_delta=1e-5, sample_rate=rate, steps=ROUNDS * steps + centre
        )  # fmt: skip
        mechanism = Mechanism(noise, rate, config.dp.max_grad_norm, PATIENTS)
    for round in range(ROUNDS):
        grant = Grant(mechanism, steps + centre * (round == 0))
        given = {"epoch": round, "device": CPU, "cache": cache}
        fit_part(model, train, config, grant, centred=round > 0, **given)  # type: ignore[arg-type]
    plain = feature_views(model, test, views=0, change=config.train.augment, seed=0, device=CPU, cache=cache)[:, 0]
    with torch.inference_mode():
        logits = model.eval().classify(torch.from_numpy(plain.astype(np.float32)))
    return auroc(test.labels == 1, (logits[:, 1] - logits[:, 0]).numpy().astype(np.float64))


_networks: dict[str, tuple[Classifier, dict[str, torch.Tensor]]] = {}


def network(config: ModelConfig) -> tuple[Classifier, dict[str, torch.Tensor]]:
    """One of each kind."""
    key = config.model_dump_json()
    if key not in _networks:
        _networks[key] = build_classifier(config, 2, SIZE, frozen_norms=True), build_initial_weights(config, 0, SIZE)
    return _networks[key]


def heads(model: Classifier) -> dict[str, torch.Tensor]:
    """Return the tensors that are zero at the start of every training."""
    names = [name for name in model.state_dict() if name.startswith(("head.", "centre."))]
    return take(model, names)


def folds(cases: tuple[Case, ...], seed: int, cache: Path) -> tuple[Fold, Fold]:
    """Training and test images, divided by patient, stratified by label."""
    pixels = load_pixels([case.file for case in cases], size=SIZE, folder=cache / "pixels").array
    labels = np.array([case.label for case in cases], np.int64)
    names = {patient: number for number, patient in enumerate(dict.fromkeys(case.patient for case in cases))}
    patients = np.array([names[case.patient] for case in cases], np.int64)
    worst = np.array([labels[patients == number].max() for number in range(len(names))])
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(worst == c))[: round(PATIENTS * np.mean(worst == c))] for c in (0, 1)]
    )
    rows = np.isin(patients, chosen)
    parts = np.flatnonzero(rows), np.flatnonzero(~rows)
    train, test = (Fold(pixels, part, labels[part], patients[part]) for part in parts)
    return train, test


if __name__ == "__main__":
    main()
