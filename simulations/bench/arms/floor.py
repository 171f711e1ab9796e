"""A floor: the bare loop with what keeps cdtl's promises between sites and server, in the fastest way that was found.

    python -m simulations.bench.arms.floor JOB_FOLDER OUT SAID.json

In a round each site stores its norms and rounds its difference to float16, straight into one message. The server takes
the norm of every update, which also says whether it is finite, and averages the updates of each modality by patients in
float64. It blends the modalities, rounds the offset straight into the message to all sites, and stores it. All these
passes take one thread, which needs less time for them than two. The sum of
initial weights and offset is the same for all sites, and is made once. In the end each site's model is stored. All that
is stored is flushed to the disk. The models have the bits of cdtl's.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from cdtl_core.models.pieces import one_thread
from simulations.bench.plain import Net, auroc_of, open_job, refresh, score, train

__all__ = ["main"]

_PIECE = 1 << 17
"""Numbers that are worked on at once: 1 MB of float64, which stays in a core's cache."""


def main() -> None:
    """Play the job and say when rounds began, the first losses and the test AUROC."""
    folder, out, said = map(Path, sys.argv[1:4])
    job, sites, net, norms = open_job(folder)
    state = net.state_dict()  # the tensors themselves
    shared = [_flat(value) for name, value in state.items() if name not in norms]
    initial = torch.cat(shared)
    received, offset = initial.clone(), torch.zeros(len(initial), dtype=torch.float16)
    messages = {site: torch.empty_like(offset) for site in sites}
    local = {site: {name: state[name].clone() for name in norms} for site in sites}
    patients: dict[str, dict[str, int]] = {}
    for site, images in sites.items():
        patients.setdefault(job["sites"][site]["modality"], {})[site] = images.patients
    _store(out / "initial_weights", lambda draft: draft.write_bytes(initial.numpy().data))
    starts: list[float] = []
    cpu: list[float] = []
    losses: dict[str, float] = {}
    for round in range(1, job["rounds"] + 1):
        starts.append(time.monotonic())
        cpu.append(time.process_time())
        for site, images in sites.items():
            _load(net, shared, received, local[site])
            score(net, images, "val")
            losses.setdefault(site, train(net, images, job, site=site, round=round))
            local[site] = {name: state[name].clone() for name in norms}
            _store(out / site / "norms.safetensors", partial(save_file, local[site]))
            _round_difference(shared, received, messages[site])
        _next_offset(offset, messages, patients)
        _store(out / "offset", lambda draft: draft.write_bytes(offset.numpy().data))
        _add(initial, offset, received)
    starts.append(time.monotonic())
    cpu.append(time.process_time())
    aurocs = {}
    for site, images in sites.items():
        _load(net, shared, received, local[site])
        if job["steps"]:
            refresh(net, images)
        score(net, images, "val")
        aurocs[site] = auroc_of(images, score(net, images, "test"))
        model = {name: value.contiguous() for name, value in state.items()}
        _store(out / site / "model.safetensors", partial(save_file, model))
    said.write_text(json.dumps({"starts": starts, "cpu": cpu, "losses": losses, "auroc": aurocs}), encoding="utf-8")


def _flat(value: torch.Tensor) -> torch.Tensor:
    """The tensor's numbers in the order of memory, not copied; images' tensors lie with their channels last."""
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).view(-1)


@one_thread()
def _load(net: Net, shared: list[torch.Tensor], received: torch.Tensor, local: Mapping[str, torch.Tensor]) -> None:
    for own, value in zip(shared, torch.split(received, [len(one) for one in shared]), strict=True):
        own.copy_(value)
    net.load_state_dict(local, strict=False)


@one_thread()
def _round_difference(shared: list[torch.Tensor], received: torch.Tensor, message: torch.Tensor) -> None:
    """Write trained less received numbers as float16."""
    room, done = torch.empty(_PIECE), 0
    for trained in (piece for own in shared for piece in torch.split(own, _PIECE)):
        to = slice(done, done + len(trained))
        message[to] = torch.sub(trained, received[to], out=room[: len(trained)])
        done = to.stop


@one_thread()
def _next_offset(
    offset: torch.Tensor, updates: Mapping[str, torch.Tensor], patients: Mapping[str, Mapping[str, int]]
) -> None:
    """Write the offset after the round over that before it; FedBN blends every modality by the same shares."""
    squares = dict.fromkeys(updates, 0.0)
    total = sum(sum(weights.values()) for weights in patients.values())
    rooms = torch.empty(_PIECE), *torch.empty(3, _PIECE, dtype=torch.float64)
    for piece in _pieces(len(offset)):
        narrow, wide, mean, mixed = (room[: piece.stop - piece.start] for room in rooms)
        mixed.zero_()
        for weights in patients.values():
            before = torch.zeros((), dtype=torch.float64)
            for site, weight in weights.items():
                narrow.copy_(updates[site][piece])
                squares[site] += float(narrow.dot(narrow))
                before = torch.add(before, wide.copy_(narrow), alpha=weight, out=mean)
            mean.div_(sum(weights.values())).add_(wide.copy_(narrow.copy_(offset[piece])))
            mixed.add_(mean, alpha=sum(weights.values()) / total)
        offset[piece] = narrow.copy_(mixed)
    if not all(math.isfinite(value) for value in squares.values()):
        raise SystemExit(f"an update is not finite: {squares}")


@one_thread()
def _add(initial: torch.Tensor, offset: torch.Tensor, received: torch.Tensor) -> None:
    for piece in _pieces(len(initial)):
        received[piece].copy_(offset[piece]).add_(initial[piece])


def _pieces(count: int) -> Iterator[slice]:
    yield from (slice(first, min(first + _PIECE, count)) for first in range(0, count, _PIECE))


def _store(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file durably: after a crash it is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    write(draft)
    _flush(draft)
    draft.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


if __name__ == "__main__":
    main()
