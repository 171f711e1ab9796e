"""A site's training loop over the pure model step on batches that lie in memory."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from simulations.bench.ratio import alternate, median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_STEPS = 8


def _measure(session: Session) -> Measured:
    loop, step = _arms(session)
    found = alternate({"loop": loop, "step": step}, session.runs, warm=True)
    images = 24 * _STEPS
    note = (
        f"{images / middle(found['loop']):.0f} images/s through the loop, {images / middle(found['step']):.0f} of the "
        "model alone, by CPU time of this process"
    )
    floor = "reading and changing an image (rotation, contrast, noise) on the same cores as the model"
    figures = {"loop_s": found["loop"], "step_s": found["step"]}
    return Measured(median_ratio(found["step"], found["loop"]), note, figures, floor)


def _arms(session: Session) -> tuple[Callable[[], float], Callable[[], float]]:
    import numpy as np
    import torch

    from cdtl_core.config import RunConfig
    from cdtl_core.config.settings import load_simulation
    from cdtl_core.models.model import build_classifier, build_initial_weights
    from cdtl_core.models.weights import load_into
    from cdtl_core.site.home import open_site
    from cdtl_core.training.train import fit

    folder = session.job("memory")
    simulation = load_simulation(folder / "config.toml")
    config: RunConfig = simulation.run
    train = config.train.model_copy(update={"steps": _STEPS})
    site = open_site(folder / "homes" / simulation.sites[0].site, config)
    model = build_classifier(config.model, 2, config.image.size)
    load_into(model, build_initial_weights(config.model, 0, config.image.size))
    device, fold = torch.device("cpu"), site.cohort.folds["train"]

    def loop() -> float:
        began = time.process_time()
        fit(model, fold, train, epoch=0, rng=np.random.default_rng(0), device=device)
        return time.process_time() - began

    batch = torch.rand(24, 3, config.image.size, config.image.size).to(memory_format=torch.channels_last)
    return loop, partial(_steps, model, batch, torch.randint(2, (24,)))


def _steps(model: Any, batch: Any, labels: Any) -> float:
    import torch
    from torch.nn.functional import cross_entropy

    began = time.process_time()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.train()
    for _ in range(_STEPS):
        loss = cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.process_time() - began


ROWS = (
    Row(
        "pipeline", "site's training loop over the pure model step: throughput", 0.95, _measure, "at least", minutes=1.5
    ),
)
