"""Federated methods to compare, one paper per file, with the same sites, seeds, steps, data and evaluation.

What a method of your own is made of is exported here; docs/guides/method.md writes one.
"""

from cdtl_core.simulation.methods.loop import play
from cdtl_core.simulation.methods.method import Ensemble, Federation, Method, Model
from cdtl_core.simulation.methods.track import (
    Track,
    advance,
    begin,
    coordinated,
    deployed,
    received,
    train_sites,
    with_offsets,
)

__all__ = ["Ensemble", "Federation", "Method", "Model", "Track", "advance", "begin", "coordinated", "deployed", "play"]
__all__ += ["received", "train_sites", "with_offsets"]
