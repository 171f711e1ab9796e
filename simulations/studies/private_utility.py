"""Cost of differential privacy in AUROC: epsilon inf, 8, 3, 1 over seeds, local training and CDTL, on real images.

::

    python -m simulations.studies.private_utility ../shared/data --seeds 5 --out private.json

Each cell is a whole federation of configs/private.toml, as `cdtl simulate` plays it. inf is the same part of the
network, the same steps, every site exempt. Splits differ by seed, so an interval over seeds is Student's over paired
splits. Features of an image are computed once.
"""

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from cdtl_core import resume_simulation
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import load_simulation, save_toml, simulation_toml

CONFIG = Path(__file__).parents[2] / "configs" / "private.toml"
EPSILONS = ("inf", "8", "3", "1")
METHODS = ("alone", "cdtl")
Cells = dict[str, dict[str, float]]


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("private_utility.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells: Cells = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="private-utility-") as folder:
        for seed, epsilon in itertools.product(range(options.seeds), EPSILONS):
            if f"{seed}/{epsilon}" not in cells:
                cells[f"{seed}/{epsilon}"] = play(Path(folder), options.data, seed, epsilon)
                options.out.write_text(json.dumps(cells, indent=1))
    print_table(cells, options.seeds)


def play(folder: Path, data: Path, seed: int, epsilon: str) -> dict[str, float]:
    """One federation: ``site/method`` to test AUROC of the model that the site uses.

    Args:
        folder: Where it is played; features that an earlier federation left there are not computed again.
        data: The images.
        seed: Seed of splits and of the exempt sites' draws.
        epsilon: ``inf``, or the target.
    """
    terms = [f"sites.{site}.privacy.exempt=true" for site in ("rio", "cairo", "mias")]
    terms = terms if epsilon == "inf" else [f"dp.target_epsilon={epsilon}"]
    config = load_simulation(CONFIG, [f"data.root={data.absolute()}", f"seed={seed}", *terms])
    out = RunFolder(folder / f"{seed}-{epsilon}")
    for own in config.sites:
        features = out.site(own.site).features
        features.parent.mkdir(parents=True)
        if (before := folder / own.site).exists():
            shutil.move(before, features)
    save_toml(out.config, simulation_toml(config))
    report = resume_simulation(out.folder)
    for own in config.sites:
        shutil.move(out.site(own.site).features, folder / own.site)
    shutil.rmtree(out.folder)
    found = {f"{site.name}/{method}": site.results[method].auroc for site in report.sites for method in METHODS}
    return {key: auroc.value for key, auroc in found.items() if auroc.value is not None}


def print_table(cells: Cells, seeds: int) -> None:
    """AUROC by site, method and epsilon; what privacy costs, and what CDTL gives, in points with 95 % intervals."""

    def row(key: str, epsilon: str) -> np.ndarray:
        return np.array([cells[f"{seed}/{epsilon}"][key] for seed in range(seeds)])

    print("| site | method | " + " | ".join(f"epsilon {epsilon}" for epsilon in EPSILONS) + " |")
    print("|---|---|" + "---|" * len(EPSILONS))
    for key in cells["0/inf"]:
        print(f"| {key.replace('/', ' | ')} | " + " | ".join(figure(row(key, e)) for e in EPSILONS) + " |")
    for key in cells["0/inf"]:
        print(f"cost at {key}: " + "; ".join(f"{e}: {points(row(key, e) - row(key, 'inf'))}" for e in EPSILONS[1:]))
    for site in dict.fromkeys(key.split("/")[0] for key in cells["0/inf"]):
        gains = {e: row(f"{site}/cdtl", e) - row(f"{site}/alone", e) for e in EPSILONS}
        print(f"CDTL - alone at {site}: " + "; ".join(f"{e}: {points(gain)}" for e, gain in gains.items()))


def figure(values: np.ndarray) -> str:
    """Mean with Student's 95 % interval of it."""
    mean, half = values.mean(), half_width(values)
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


def points(values: np.ndarray) -> str:
    """Return the same in points."""
    mean, half = 100 * values.mean(), 100 * half_width(values)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def half_width(values: np.ndarray) -> float:
    """NaN for one value."""
    count = len(values)
    return float(student.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5) if count > 1 else float("nan")


if __name__ == "__main__":
    main()
