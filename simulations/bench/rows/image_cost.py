"""Milliseconds per training image: half the stages frozen, and frozen stages run once and kept."""

from functools import cache, partial
from typing import Any

from simulations.bench.row import Measured, Row
from simulations.bench.rows.script import figures_of
from simulations.bench.session import Session

__all__ = ["ROWS"]


@cache
def _figures(runs: int, freeze: int) -> dict[str, Any] | None:
    return figures_of("feature_cache.py", "--repeats", runs, "--patients", 60, "--views", 2, "--freeze", freeze)


def _measure(session: Session, *, arm: str) -> Measured:
    halves = {freeze: _figures(session.runs, freeze) for freeze in (5, 6)}
    half, more = halves[5], halves[6]
    if half is None or more is None:
        return Measured(None, "needs a checkout: benchmarks/feature_cache.py is not in the wheel")
    each, value = half["ms_per_image"], half["ratios"][arm]
    note = (
        f"{each[arm]:.1f} ms against {each['whole']:.1f} ms of one processor, 5 of 9 stages frozen; 6 of 9: "
        f"{more['ratios'][arm]:.2f}"
    )
    floor = "the stages that are trained cost this much by themselves, whatever is kept of the others"
    return Measured(value, note, {"five": half, "six": more}, floor)


_WHAT = "ms per image over full fine-tuning, both channels_last"
ROWS = (
    Row("image-frozen", f"half the stages frozen: {_WHAT}", 0.5, partial(_measure, arm="half frozen"), minutes=1.5),
    Row(
        "image-kept", f"and kept (train.views): {_WHAT}", 0.25, partial(_measure, arm="half frozen, kept"), minutes=1.5
    ),
)
