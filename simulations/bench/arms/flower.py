"""The job as an idiomatic Flower app: stock FedAvg, a train and an evaluate message a round, Flower's Ray simulation.

    BENCH_JOB=JOB_FOLDER python -m simulations.bench.arms.flower

Played by `run_simulation`, the cheapest of Flower's ways to Ray, with as many workers as processors.
"""

import functools
import os
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from simulations.bench.plain import Images, Job, Net, images_of, initial_weights_of, read_job, score, train

__all__ = ["client", "main", "server"]

client, server = ClientApp(), ServerApp()


@functools.cache
def _job() -> Job:
    return read_job(Path(os.environ["BENCH_JOB"]))


@functools.cache
def _images(site: str) -> Images:
    return images_of(_job(), site)


def _opened(message: Message, context: Context) -> tuple[Net, Images, str]:
    site = list(_job()["sites"])[int(context.node_config["partition-id"])]
    net = Net(_job())
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return net, _images(site), site


def _round(message: Message) -> int:
    value = message.content.config_records["config"]["server-round"]
    if not isinstance(value, int):
        raise TypeError(f"the round is {value!r}")
    return value


@client.train()
def _train(message: Message, context: Context) -> Message:
    net, images, site = _opened(message, context)
    loss = train(net, images, _job(), site=site, round=_round(message))
    metrics = MetricRecord({"train_loss": loss, "num-examples": images.patients})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@client.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    net, images, _ = _opened(message, context)
    said = score(net, images, "val")
    loss = float(-said[torch.arange(len(said)), torch.from_numpy(images.labels["val"])].mean())
    return Message(RecordDict({"metrics": MetricRecord({"loss": loss, "num-examples": len(said)})}), reply_to=message)


@server.main()
def _main(grid: Grid, _context: Context) -> None:
    job = _job()
    net = Net(job)
    net.load_state_dict(initial_weights_of(Path(os.environ["BENCH_JOB"])), strict=False)
    count = len(job["sites"])
    strategy = FedAvg(min_train_nodes=count, min_evaluate_nodes=count, min_available_nodes=count)
    result = strategy.start(grid, ArrayRecord(net.state_dict()), num_rounds=job["rounds"])
    if len(result.evaluate_metrics_clientapp) != job["rounds"]:
        raise RuntimeError("a round had no evaluation: the simulation failed")


def main() -> None:
    """Play the job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sites = len(_job()["sites"])
    backend: Any = {
        "init_args": {"num_cpus": cores},
        "client_resources": {"num_cpus": max(1, cores // sites), "num_gpus": 0.0},
    }
    run_simulation(server, client, num_supernodes=sites, backend_config=backend)


if __name__ == "__main__":
    from simulations.bench.arms import flower  # so that Ray's workers know the app by its module's name

    flower.main()
