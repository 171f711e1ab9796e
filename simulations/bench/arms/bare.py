"""A federation as one would write it without a framework: one network, a loop over rounds and sites, a running mean.

    python -m simulations.bench.arms.bare JOB_FOLDER SAID.json

FedAvg with norms kept at the sites, as cdtl's `fedbn`; everything stays float32.
"""

import json
import sys
import time
from pathlib import Path

import torch

from simulations.bench.plain import auroc_of, open_job, refresh, score, train

__all__ = ["main"]


def main() -> None:
    """Play the job and say when rounds began, the first losses and the test AUROC."""
    folder, said = Path(sys.argv[1]), Path(sys.argv[2])
    job, sites, net, norms = open_job(folder)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    shared = {name: value for name, value in start.items() if name not in norms}
    local = {site: {name: start[name].clone() for name in norms} for site in sites}
    total = sum(images.patients for images in sites.values())
    starts: list[float] = []
    cpu: list[float] = []
    losses: dict[str, float] = {}
    for round in range(1, job["rounds"] + 1):
        starts.append(time.monotonic())
        cpu.append(time.process_time())
        mean = {name: torch.zeros_like(value) for name, value in shared.items()}
        for site, images in sites.items():
            net.load_state_dict({**shared, **local[site]})
            score(net, images, "val")
            loss = train(net, images, job, site=site, round=round)
            losses.setdefault(site, loss)
            state = net.state_dict()
            local[site] = {name: state[name].clone() for name in norms}
            for name, value in mean.items():
                value.add_(state[name], alpha=images.patients / total)
        shared = mean
    starts.append(time.monotonic())
    cpu.append(time.process_time())
    aurocs = {}
    for site, images in sites.items():
        net.load_state_dict({**shared, **local[site]})
        if job["steps"]:
            refresh(net, images)
        score(net, images, "val")
        aurocs[site] = auroc_of(images, score(net, images, "test"))
    said.write_text(json.dumps({"starts": starts, "cpu": cpu, "losses": losses, "auroc": aurocs}), encoding="utf-8")


if __name__ == "__main__":
    main()
