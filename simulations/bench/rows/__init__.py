"""The rows of the table, in its order; a file holds those that are measured together."""

from simulations.bench.row import Row
from simulations.bench.rows import aggregation, cluster, deployed, memory, peers, sending, start
from simulations.bench.rows import federation as overhead

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (
    *overhead.ROWS,
    *peers.ROWS,
    *memory.ROWS,
    *aggregation.ROWS,
    *sending.ROWS,
    *deployed.ROWS,
    *start.ROWS,
    *cluster.ROWS,
)
"""All rows; names are distinct."""
