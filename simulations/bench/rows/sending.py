"""Bytes that cross for one site in a round, and whether rounding them costs anything."""

import statistics
from functools import partial

from simulations.bench.program import play, python_program
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_HALF = 5


def _bytes(session: Session, *, frozen: int) -> Measured:
    import torch

    folder = session.job("memory")
    whole = sum(4 * value.numel() for value in torch.load(folder / "initial_weights.pt", weights_only=True).values())
    command = python_program(
        "simulations.bench.arms.cdtl", folder, "{folder}/out", "{said}", f"train.freeze={frozen}", "train.steps=1",
        "federation.rounds=3",
    )  # fmt: skip
    run = play(command)
    crossed = [one["sent"] + one["received"] * 3 / 2 for one in run.said["bytes"].values()]  # none in the first round
    value = statistics.mean(crossed) / (2 * whole)
    note = f"{statistics.mean(crossed) / 1e6:.2f} MB both ways against {2 * whole / 1e6:.1f} MB as float32"
    floor = "what is not frozen is most of the network: late stages hold the weights, early ones the multiplications"
    return Measured(value, note, {"bytes": crossed, "whole": whole}, floor if frozen else "")


def _rounding(session: Session) -> Measured:
    gaps, notes = [], []
    for bare, own in zip(session.plays("train", "bare"), session.plays("train", "cdtl"), strict=True):
        sites = sorted(bare.said["auroc"])
        gaps.append(statistics.mean(own.said["auroc"][site] - bare.said["auroc"][site] for site in sites))
        notes.append(statistics.mean(bare.said["auroc"].values()))
    note = f"mean AUROC of 4 sites {statistics.mean(notes):.3f} in float32, {statistics.mean(gaps):+.4f} on the wire"
    return Measured(abs(statistics.mean(gaps)), note, {"gaps": gaps, "float32": notes})


_TRAIN = (("train", "bare"), ("train", "cdtl"))
_WHAT = "bytes per site and round over a float32 state dict both ways, EfficientNet-Lite0"
ROWS = (
    Row("bytes", _WHAT, 0.5, partial(_bytes, frozen=0), minutes=0.5),
    Row("bytes-frozen", f"{_WHAT}, {_HALF} of 9 stages frozen", 0.25, partial(_bytes, frozen=_HALF), minutes=0.5),
    Row("bytes-auroc", "what rounding to float16 changes of the test AUROC", 0.02, _rounding, unit="", needs=_TRAIN),
)
