"""A site's script for NVFlare's simulator: receive, evaluate, train, send; NVFlare's own client interface."""

import os
from pathlib import Path

import nvflare.client as flare
import torch

from simulations.bench.plain import Net, images_of, read_job, score, train


def main() -> None:
    """Take part until the federation ends."""
    flare.init()
    job = read_job(Path(os.environ["BENCH_JOB"]))
    site = list(job["sites"])[int(flare.get_site_name().removeprefix("site-")) - 1]
    images, net = images_of(job, site), Net(job)
    while flare.is_running():
        received = flare.receive()
        net.load_state_dict(received.params)
        said = score(net, images, "val")
        loss = float(-said[torch.arange(len(said)), torch.from_numpy(images.labels["val"])].mean())
        train(net, images, job, site=site, round=received.current_round + 1)
        state = {name: value.cpu() for name, value in net.state_dict().items()}
        meta = {"NUM_STEPS_CURRENT_ROUND": images.patients}
        flare.send(flare.FLModel(params=state, metrics={"accuracy": -loss}, meta=meta))


if __name__ == "__main__":
    main()
