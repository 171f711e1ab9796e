"""What differential privacy costs: epsilon inf, 8, 3, 1 over seeds, alone and CDTL, on real images.

::

    python benchmarks/private_utility.py ../shared/data --seeds 5 --out private.json

Each cell is a whole federation of configs/private.toml through `cdtl simulate`; inf is the same part of the network,
the same steps, every site exempt. Splits differ by seed, so an interval over seeds is Student's over paired splits.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

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
    cells: Cells = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in range(options.seeds):
        for epsilon in EPSILONS:
            if f"{seed}/{epsilon}" not in cells:
                cells[f"{seed}/{epsilon}"] = play(options.data, seed, epsilon)
                options.out.write_text(json.dumps(cells, indent=1))
    print_table(cells, options.seeds)


def play(data: Path, seed: int, epsilon: str) -> dict[str, float]:
    """One federation: ``site/method`` to test AUROC of the model that the site uses."""
    config = Path(__file__).parent.parent / "configs" / "private.toml"
    terms = [f"sites.{site}.privacy.exempt=true" for site in ("rio", "cairo", "mias")]
    terms = terms if epsilon == "inf" else [f"dp.target_epsilon={epsilon}"]
    settings = [f"data.root={data.absolute()}", f"seed={seed}", *terms]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "cdtl_core.cli.main",
            "simulate",
            str(config),
            "--json",
            "--out",
            f"{folder}/r",
        ]
        command += [part for setting in settings for part in ("--set", setting)]
        env = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    report: Any = json.loads(done.stdout)
    return {
        f"{site['name']}/{method}": site["results"][method]["auroc"]["value"]
        for site in report["sites"]
        for method in METHODS
    }


def print_table(cells: Cells, seeds: int) -> None:
    """AUROC by site, method and epsilon; what privacy costs, and what CDTL gives, in points with 95 % intervals."""
    print("| site | method | " + " | ".join(f"epsilon {epsilon}" for epsilon in EPSILONS) + " |")
    print("|---|---|" + "---|" * len(EPSILONS))
    for key in cells["0/inf"]:
        site, method = key.split("/")
        figures = [interval(cells[f"{seed}/{epsilon}"][key] for seed in range(seeds)) for epsilon in EPSILONS]
        print(
            f"| {site} | {method} | "
            + " | ".join(f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in figures)
            + " |"
        )
    for key in cells["0/inf"]:
        costs = [
            interval(100 * (cells[f"{s}/{e}"][key] - cells[f"{s}/inf"][key]) for s in range(seeds))
            for e in EPSILONS[1:]
        ]
        print(
            f"cost at {key}: "
            + "; ".join(f"epsilon {e}: {points(c)}" for e, c in zip(EPSILONS[1:], costs, strict=True))
        )
    for site in dict.fromkeys(key.split("/")[0] for key in cells["0/inf"]):
        gains = [
            interval(
                100 * (cells[f"{s}/{e}"][f"{site}/cdtl"] - cells[f"{s}/{e}"][f"{site}/alone"]) for s in range(seeds)
            )
            for e in EPSILONS
        ]
        print(
            f"CDTL - alone at {site}: " + "; ".join(f"{e}: {points(g)}" for e, g in zip(EPSILONS, gains, strict=True))
        )


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of the mean."""
    found = np.array(list(values))
    half = (
        float(student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else np.nan
    )
    return float(found.mean()), float(found.mean()) - half, float(found.mean()) + half


def points(value: tuple[float, float, float]) -> str:
    """Points with their interval."""
    return f"{value[0]:+.1f} ({value[1]:+.1f} to {value[2]:+.1f})"


if __name__ == "__main__":
    main()
