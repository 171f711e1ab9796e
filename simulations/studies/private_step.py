"""Cost of a step with differential privacy relative to a plain step on the same part of the network.

::

    python -m simulations.studies.private_step

The arms alternate and each ratio is of neighbours; the figure is the median. Inputs are random: what is measured is
arithmetic, of configs/private.toml's network on 750 patients with two images each.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cdtl_core.config import DpConfig, ModelConfig, RunConfig
from cdtl_core.models.draws import keyed_draws
from cdtl_core.models.model import Classifier, build_classifier, frozen_stages, set_training
from cdtl_core.privacy.dp_sgd import fit_private
from cdtl_core.privacy.mechanism import Mechanism
from cdtl_core.training.patient_inputs import Examples, PatientInputs

PATIENTS, CPU, DRAWS = 750, torch.device("cpu"), keyed_draws(bytes(32))


def main() -> None:
    """Measure and print a table."""
    cases = {
        "head on kept features": ({}, 0, PATIENTS, 20),
        "head and adapter of 16 on kept features": ({"adapter": 16}, 0, PATIENTS, 20),
        "last stage and head, on images, 32 patients a step": ({}, 1, 32, 1),
    }
    print("| trained | parameters | ms a plain step | ms a private step | ratio (quartiles) |\n|---|---|---|---|---|")
    for name, (more, stages, batch, steps) in cases.items():
        config = RunConfig(
            model=ModelConfig(levels=(6, 8), dropout=0.0, weights="random", **more),
            dp=DpConfig(enabled=True, stages=stages, multiplicity=1 if stages else 2),
        )
        print(f"| {name} | " + " | ".join(compare(config, batch, steps)) + " |")


def compare(config: RunConfig, batch: int, steps: int) -> list[str]:
    """Parameters, milliseconds of both arms, and their ratio."""
    model = build_classifier(config.model, 2, 128, frozen_norms=True)
    set_training(model, freeze=frozen_stages(model, config))
    inputs = inputs_of(model, config)
    labels = np.arange(2 * PATIENTS) % 2
    examples = Examples(np.repeat(np.arange(PATIENTS), 2), labels, inputs)
    module = model if config.dp.stages else model.end()

    def plain() -> None:
        rng = np.random.default_rng(0)
        sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
        for _ in range(steps):
            chosen = rng.permutation(PATIENTS)[:batch]
            values, wanted = examples.of(chosen, config.dp.multiplicity, 0, DRAWS)
            sgd.zero_grad()
            cross_entropy(module(values).flatten(0, -2), wanted.flatten()).backward()  # type: ignore[no-untyped-call]
            sgd.step()

    def private() -> None:
        mechanism = Mechanism(1.0, batch / PATIENTS, 1.5, PATIENTS)
        fit_private(
            model, module, examples, config.dp, mechanism, steps=steps, lr=0.01, ema=0.0, draws=DRAWS, device=CPU
        )  # fmt: skip

    pairs = [(milliseconds(plain, steps), milliseconds(private, steps)) for _ in range(16)][1:]
    ratios = sorted(second / first for first, second in pairs)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    middle = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return [
        str(count),
        *(f"{value:.2f}" for value in middle),
        f"{statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})",
    ]


def inputs_of(model: Classifier, config: RunConfig) -> PatientInputs:
    """Random features as they are kept, float16, or random images."""
    shape = (3, 128, 128) if config.dp.stages else (model.head.in_features,)
    kept = np.random.default_rng(0).standard_normal((2 * PATIENTS if not config.dp.stages else 64, *shape))
    kept = kept.astype(np.float16)
    return lambda _step, _patients, rows: torch.from_numpy(kept[rows % len(kept)].astype(np.float32))


def milliseconds(what: Callable[[], None], steps: int) -> float:
    """Return the milliseconds of one step."""
    began = time.perf_counter()
    what()
    return 1000 * (time.perf_counter() - began) / steps


if __name__ == "__main__":
    main()
