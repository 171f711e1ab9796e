"""Long and wide runs: `python -m tests.faults.soak rounds|sites|deployed`. Ends with exit code 1 if something grows.

`rounds`: 500 rounds of three sites in one process; memory and open files must stay flat after the first 50.
`sites`: 64 sites in one process; every site's update counts in every round, memory says what a site costs.
`deployed`: 8 sites and a coordinator as real processes on loopback, three rounds; the models are the simulation's.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil

from cdtl_core.config import SimulationConfig
from cdtl_core.simulation.simulate import simulate
from cdtl_core.system.progress import listen
from tests.conftest import TINY_RUN, TINY_SITES
from tests.deploy.deployment import MODEL, Deployment

MODALITIES = ("ultrasound", "mammography", "histology", "mri")
_WARM = 50
_MEMORY_MB, _FILES = 24.0, 0
BASE = {**TINY_RUN, "model": {**TINY_RUN["model"], **MODEL}}


def tiny(sites: int, **tables: Mapping[str, object]) -> SimulationConfig:
    """Sites of twelve phantoms each; tables of the run are laid over the tests' own."""
    run = {key: {**value, **tables.pop(key, {})} if isinstance(value, dict) else value for key, value in BASE.items()}
    made = [
        {"site": f"site{n:02d}", "modality": MODALITIES[n % 4], "data": {"phantom": {"patients": 12, "seed": n}}}
        for n in range(sites)
    ]
    chosen = made if sites != len(TINY_SITES) else TINY_SITES
    return SimulationConfig.model_validate({"run": {**run, **tables}, "methods": ("cdtl",), "sites": chosen})


def rounds(folder: Path, count: int) -> list[str]:
    """Memory and open files of one process over many rounds."""
    process, seen = psutil.Process(), list[tuple[float, int]]()

    def hear(fields: Mapping[str, object]) -> None:
        if "rounds" in fields:
            seen.append((process.memory_info().rss / 2**20, process.num_fds()))

    began = time.monotonic()
    with listen(hear):
        simulate(tiny(3, federation={"rounds": count}, train={"steps": 1}), folder / "run")
    memory, files = np.array([one for one, _ in seen[_WARM:]]), [one for _, one in seen[_WARM:]]
    tenth = max(len(memory) // 10, 1)
    first, last = float(np.median(memory[:tenth])), float(np.median(memory[-tenth:]))
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    found = [
        f"{len(seen)} rounds of 3 sites in {time.monotonic() - began:.0f} s",
        f"memory {first:.1f} MB after {_WARM} rounds, {last:.1f} MB at the end; open files {files[0]} and {files[-1]}",
        f"run directory {disk:.1f} MB",
    ]
    grown = [last - first > _MEMORY_MB, files[-1] - files[0] > _FILES, len(seen) != count]
    return [*found, *(["IT GROWS"] if any(grown) else [])]


def sites(folder: Path, count: int) -> list[str]:
    """Many sites in one process."""
    began, process = time.monotonic(), psutil.Process()
    before = process.memory_info().rss / 2**20
    simulate(tiny(count), folder / "run")
    lines = [json.loads(text) for text in (folder / "run" / "rounds.jsonl").read_text().splitlines()]
    updates = sum(len(line.get("sites", {})) for line in lines)
    after = process.memory_info().rss / 2**20
    found = [
        f"{count} sites, {len(lines) - 1} rounds in {time.monotonic() - began:.0f} s: {updates} updates counted",
        f"memory {before:.0f} MB before, {after:.0f} MB after: {(after - before) / count:.1f} MB a site",
    ]
    return found if updates == count * (len(lines) - 1) else [*found, "UPDATES ARE MISSING"]


def deployed(folder: Path, count: int) -> list[str]:
    """Many sites as real processes."""
    limits = {"min_sites": count, "round_timeout_s": 900.0, "join_timeout_s": 900.0}
    config, began = tiny(count, federation={"rounds": 3, **limits}), time.monotonic()
    deployment = Deployment(folder / "deployed", list(config.sites), config.of_method("cdtl"))
    try:
        deployment.start_all()
        run = deployment.request(config.of_method("cdtl"))
        deployment.approve(run)
        deployment.play(run)
        status = deployment.ended(run, timeout_s=1800.0)
        held = sum(process.memory_info().rss for process in deployment.processes()) / 2**30
        seconds = [f"{line['seconds']:.0f}" for line in deployment.lines(run)]
        deployment.stop()
    finally:
        deployment.end()
    took = time.monotonic() - began
    simulate(config, folder / "simulated")
    same = all(model(home) == model(folder / "simulated" / "sites" / name) for name, home in deployment.homes.items())
    found = [
        f"{count} deployed sites, {status} after {took:.0f} s; rounds and end took {', '.join(seconds)} s",
        f"{held:.1f} GB in all processes at the end (shared pages counted in each)",
        f"models {'are the same bits as' if same else 'DIFFER from'} the simulation's",
    ]
    return found if same and status == "completed" else [*found, "IT FAILED"]


def model(home: Path) -> bytes:
    return (home / "models" / "tiny-cdtl" / "model.safetensors").read_bytes()


def main() -> None:
    """Play one, print what was found, and fail in capitals."""
    kinds: dict[str, tuple[Callable[[Path, int], list[str]], int]] = {
        "rounds": (rounds, 500),
        "sites": (sites, 64),
        "deployed": (deployed, 8),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--count", type=int, help="rounds or sites, in place of 500, 64 and 8")
    options = parser.parse_args()
    play, usual = kinds[options.what]
    with tempfile.TemporaryDirectory() as folder:
        found = play(Path(folder), options.count or usual)
    print("\n".join(found))
    sys.exit(1 if any(line.isupper() for line in found) else 0)


if __name__ == "__main__":
    main()
