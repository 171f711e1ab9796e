"""Effect of one hostile site among five on the honest ones, with and without the defence, on SYNTHETIC phantoms.

::

    python -m simulations.studies.hostile_site --seeds 3 --out hostile.json

Three ultrasound sites and one mammography site train with `fedbn` (heads shared); the fifth, of ultrasound too, is
honest, absent, or hostile in one way. Of four sites of a modality `trimmed` and `median` are the same rule. The plain
loop of the algorithm is run, without Flower. The figure is the mean over the honest sites of the test AUROC of the
model that each ends with.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cdtl_core.config import RunConfig
from cdtl_core.config.settings import save_toml
from cdtl_core.errors import CdtlError
from cdtl_core.federation.contract import label_hash
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.norms import norm_of
from cdtl_core.federation.round import step
from cdtl_core.federation.screening import running_median
from cdtl_core.federation.site import Site, SiteMemory, SiteUpdate, run_round
from cdtl_core.federation.state import CoordinatorState, Member, order_for, start
from cdtl_core.metrics.metrics import auroc
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.site.home import open_site
from cdtl_core.training.scoring import score

MALLORY = "mallory"
PLACES = {"alba": "ultrasound", "bari": "ultrasound", "como": "ultrasound", "elba": "mammography"}
PATIENTS = 60
DEFENCES: dict[str, dict[str, object]] = {
    "none": {"norm_bound": 0.0, "strikes": 0},
    "default": {},
    "median": {"robust": "median"},
    "krum": {"robust": "krum"},
}


def _scaled(factor: float) -> Callable[[SiteUpdate, np.random.Generator], SiteUpdate]:
    def act(update: SiteUpdate, _rng: np.random.Generator) -> SiteUpdate:
        most = float(torch.finfo(torch.float16).max)
        delta = {n: (factor * v.float()).clamp(-most, most).half() for n, v in update.delta.items()}
        return replace(update, delta=delta)

    return act


def _noise(update: SiteUpdate, rng: np.random.Generator) -> SiteUpdate:
    delta: Weights = {n: torch.from_numpy(rng.normal(0, 0.1, v.shape)).half() for n, v in update.delta.items()}
    return replace(update, delta=delta)


def _nan(update: SiteUpdate, _rng: np.random.Generator) -> SiteUpdate:
    return replace(update, delta={name: torch.full_like(value, float("nan")) for name, value in update.delta.items()})


ATTACKS: dict[str, Callable[[SiteUpdate, np.random.Generator], SiteUpdate]] = {
    "honest": lambda update, _: update,
    "NaN": _nan,
    "sign-flip x 20": _scaled(-20.0),
    "sign-flip x 4": _scaled(-4.0),
    "sign-flip x 1": _scaled(-1.0),
    "noise": _noise,
    "label flip": lambda update, _: update,
    "label flip x 8": _scaled(8.0),
}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("hostile_site.json"))
    options = parser.parse_args()
    cells: dict[str, dict[str, object]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for key, attack, defence in _wanted(seed):
                if key not in cells:
                    cells[key] = play(Path(folder), seed, options.rounds, attack, DEFENCES[defence])
                    options.out.write_text(json.dumps(cells, indent=1))
                    print(key, cells[key], flush=True)
    print_table(cells, options.seeds)


def _wanted(seed: int) -> Iterator[tuple[str, str, str]]:
    for attack in ("absent", *ATTACKS):
        for defence in DEFENCES:
            if attack != "absent" or defence == "default":
                yield f"{seed}/{attack}/{defence}", attack, defence


def play(folder: Path, seed: int, rounds: int, attack: str, defence: dict[str, object]) -> dict[str, object]:
    """One federation; returns the honest sites' mean AUROC, or how it failed, and how often the liar was refused."""
    config = RunConfig.model_validate(
        {
            "name": "hostile", "method": "fedbn", "seed": seed, "image": {"size": 64},
            "train": {"steps": 8, "batch_size": 16}, "federation": {"rounds": rounds}, "aggregate": defence,
        }
    )  # fmt: skip
    sites = _sites(folder, seed, config, attack)
    initial_weights = build_initial_weights(config.model, seed, config.image.size)
    state = start([_member(site) for site in sites.values()], config)
    memories, refused = dict.fromkeys(sites, SiteMemory()), 0
    rng, longest = np.random.default_rng(seed), 0.0
    try:
        for _ in range(rounds):
            updates = []
            for member in state.members:
                order = order_for(state, member, config)
                memory, update = run_round(sites[member.site], initial_weights, memories[member.site], order)
                memories[member.site] = memory
                updates.append(ATTACKS[attack](update, rng) if member.site == MALLORY else update)
            if attack == "honest":
                longest = max(longest, *_lengths(state, updates))
            state, report = step(state, updates, config)
            refused += MALLORY in report.refused
        return {
            "auroc": _honest_auroc(sites, state, initial_weights, memories, config),
            "refused": refused,
            "longest": longest,
        }
    except CdtlError as error:
        return {"auroc": None, "refused": refused, "fault": f"{type(error).__name__}: {error}"}


def _lengths(state: CoordinatorState, updates: list[SiteUpdate]) -> Iterator[float]:
    """Each update's length in running medians; in the first round, of this round's."""
    now = {update.site: norm_of(update.delta) for update in updates}
    past = {site: record.norms for site, record in state.records.items() if record.norms}
    pools = {member.site: member.modality for member in state.members}
    for update in updates:
        usual = running_median({**{site: (norm,) for site, norm in now.items()}, **past}, pools, update.site)
        yield now[update.site] / usual if usual else 0.0


def _honest_auroc(
    sites: dict[str, Site],
    state: CoordinatorState,
    initial_weights: Weights,
    memories: dict[str, SiteMemory],
    config: RunConfig,
) -> float:
    found = []
    for member in state.members:
        if member.site == MALLORY:
            continue
        site, fold = sites[member.site], sites[member.site].cohort.folds["test"]
        order = order_for(state, member, config)
        load_into(site.model, candidate(site, initial_weights, memories[member.site], order))
        scores = score(site.model, fold, device=site.device, entry=site.entry)[:, site.positive]
        found.append(auroc(fold.labels == site.positive, np.nan_to_num(scores, nan=-1e9)))
    return float(np.mean(found))


def _member(site: Site) -> Member:
    return Member(site.name, site.modality, site.cohort.folds["train"].num_patients, label_hash(site.cohort.labels))


def _sites(folder: Path, seed: int, config: RunConfig, attack: str) -> dict[str, Site]:
    """The honest sites and, unless it is absent, the liar; one that flips labels reads each as the other."""
    places = PLACES if attack == "absent" else {**PLACES, MALLORY: "ultrasound"}
    sites = {}
    for number, (name, modality) in enumerate(sorted(places.items())):
        home = folder / name
        data = {"phantom": {"patients": PATIENTS, "seed": 100 * seed + number}}
        home.mkdir(exist_ok=True)
        save_toml(home / "site.toml", {"site": name, "modality": modality, "data": data})
        site = open_site(home, config)
        if name == MALLORY and attack.startswith("label flip"):
            cohort = site.cohort
            folds = {key: replace(fold, labels=1 - fold.labels) for key, fold in cohort.folds.items()}
            site = replace(site, cohort=replace(cohort, folds=folds))
        sites[name] = site
    return sites


def print_table(cells: dict[str, dict[str, object]], seeds: int) -> None:
    """Mean over seeds and their range; in brackets, rounds of all seeds in which the liar was refused."""
    print("| the fifth site | " + " | ".join(DEFENCES) + " |\n|---|" + "---|" * len(DEFENCES))
    for attack in ("absent", *ATTACKS):
        row = [_cell([cells.get(f"{seed}/{attack}/{defence}") for seed in range(seeds)]) for defence in DEFENCES]
        print(f"| {attack} | " + " | ".join(row) + " |")
    lengths = [float(str(one["longest"])) for one in cells.values() if one.get("longest")]
    print(f"longest honest update: {max(lengths):.2f} times the running median ({len(lengths)} runs)")


def _cell(found: list[dict[str, object] | None]) -> str:
    done = [one for one in found if one]
    values = [float(str(one["auroc"])) for one in done if one["auroc"] is not None]
    if not done:
        return ""
    if len(values) < len(done):
        return f"the run fails ({len(done) - len(values)} of {len(done)})"
    refused = sum(int(str(one["refused"])) for one in done)
    return f"{np.mean(values):.3f} ({min(values):.2f} to {max(values):.2f}) [{refused}]"


if __name__ == "__main__":
    main()
