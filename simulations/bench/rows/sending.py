"""Bytes that cross for one site in a round, over a float32 state dict both ways."""

import statistics

from simulations.bench.job import JOBS
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_NEEDS = (("memory", "cdtl"),)


def _bytes(session: Session) -> Measured:
    import torch

    weights = torch.load(session.job("memory") / "initial_weights.pt", weights_only=True)
    whole, rounds = 2 * sum(4 * value.numel() for value in weights.values()), JOBS["memory"].rounds
    found = session.plays(*_NEEDS[0])[0].said["bytes"].values()
    crossed = [one["sent"] + one["received"] * rounds / (rounds - 1) for one in found]  # none received in the first
    note = f"{statistics.mean(crossed) / 1e6:.2f} MB both ways against {whole / 1e6:.1f} MB as float32"
    return Measured(statistics.mean(crossed) / whole, note, {"bytes": crossed, "whole": whole}, runs=1)


ROWS = (Row("bytes", "bytes per site and round over a float32 state dict both ways", 0.5, _bytes, needs=_NEEDS),)
