"""Cost of a training image: the whole network, half of it frozen, and half of it frozen with cached output.

    OMP_NUM_THREADS=1 python -m simulations.studies.feature_cache [CONFIG --site NAME --set data.root=DIR] [--out FILE]

EfficientNet-Lite0 at 128 px, batches of 24 as by default, one round of 12 steps of `fit` for each figure. The arms take
turns; a figure is the median of `--repeats`, in milliseconds of the processor, which other processes disturb least. An
image is one of a batch: forward, backward, optimizer and making the batch are included. Half of the network is
`--freeze` of its stages, by default 5 of 9. The cache is filled before; the time for that is printed per image and
view. Images are synthetic, or those that a site of CONFIG trains on. Exit code 1 if a ratio to the whole network is
above its limit.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import load_simulation, save_toml
from cdtl_core.data.cohort import Fold
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.weights import load_into
from cdtl_core.system.shipped import find_config
from cdtl_core.training.inputs import entry_of, plain_inputs
from cdtl_core.training.train import fit

BARS = {"half frozen": 0.5, "half frozen, kept": 0.25}
CPU = torch.device("cpu")


def main() -> int:
    """Time the arms in turn, print the table, write the figures; 1 if a bar is missed."""
    options = _options()
    torch.set_num_threads(options.threads)
    frozen = {"freeze": options.freeze}
    tables = {"whole": {}, "half frozen": frozen, "half frozen, kept": {**frozen, "views": options.views}}
    arms = {name: RunConfig.model_validate({"train": table}) for name, table in tables.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with tempfile.TemporaryDirectory(prefix="feature-cache-") as place:
        folder = Path(place)
        fold = _fold(options, arms["whole"], folder)
        filling, size = _fill(arms["half frozen, kept"], fold, folder / "cache")
        for turn in range(1 + options.repeats):
            for name, config in arms.items():
                took = _round(config, fold, folder / "cache", turn)
                if turn:  # the first one warms up
                    seconds[name].append(took)
    images = arms["whole"].train.steps * arms["whole"].train.batch_size
    each = {name: 1e3 * statistics.median(values) / images for name, values in seconds.items()}
    pool = fold.num_images * (1 + options.views)
    print(f"{fold.num_images} images, {options.views} views beside the plain one, {options.freeze} stages frozen")
    print(f"kept once: {1e3 * filling / pool:.2f} ms and {size / pool / 1e3:.1f} kB per image and view\n")
    print(f"{'':20} {'ms/image':>9} {'to whole':>9} {'bar':>6}")
    for name, value in each.items():
        print(f"{name:20} {value:9.2f} {value / each['whole']:9.2f} {BARS.get(name, ''):>6}")
    ratios = {name: each[name] / each["whole"] for name in BARS}
    figures = {"ms_per_image": each, "ratios": ratios, "bars": BARS, "seconds": seconds, "bytes": size}
    if options.out:
        options.out.write_text(json.dumps({**figures, "filling_s": filling}, indent=1) + "\n")
    return int(any(ratios[name] > bar for name, bar in BARS.items()))


def _round(config: RunConfig, fold: Fold, cache: Path, seed: int) -> float:
    """Seconds of one round from the initial weights."""
    model = _model(config)
    rng, entry = np.random.default_rng(seed), entry_of(config, cache)
    began = time.process_time()
    fit(model, fold, config.train, epoch=0, rng=rng, device=CPU, entry=entry)
    return time.process_time() - began


def _fill(config: RunConfig, fold: Fold, cache: Path) -> tuple[float, int]:
    """Seconds it took, and bytes on disk."""
    model = _model(config)
    began = time.process_time()
    plain_inputs(model, fold, entry_of(config, cache))
    took = time.process_time() - began
    return took, sum(path.stat().st_size for path in cache.glob("*/*.npy"))


def _model(config: RunConfig) -> Classifier:
    model = build_classifier(config.model, 2, config.image.size)
    load_into(model, build_initial_weights(config.model, 0, config.image.size))
    return model


def _fold(options: argparse.Namespace, config: RunConfig, folder: Path) -> Fold:
    from cdtl_core.site.home import open_site

    text = f'[[sites]]\nsite = "north"\nmodality = "ultrasound"\ndata.phantom = {{ patients = {options.patients} }}\n'
    phantoms = folder / "phantoms.toml"
    phantoms.write_text(text)
    simulation = load_simulation(find_config(options.config) if options.config else phantoms, options.set)
    own = next(site for site in simulation.sites if options.site in (site.site, ""))
    save_toml(folder / "site" / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
    return open_site(folder / "site", config).cohort.folds["train"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a training image costs with and without kept activations.")
    parser.add_argument("config", nargs="?", type=Path, help="a simulation whose site's images are taken")
    parser.add_argument("--site", default="", help="which site; default the first")
    parser.add_argument("--set", action="append", default=[], help="change a setting of CONFIG")
    parser.add_argument("--patients", type=int, default=160, help="synthetic patients")
    parser.add_argument("--freeze", type=int, default=5)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
