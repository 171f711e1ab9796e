"""The algorithm without a network: site, screening, aggregation, blend, pool, checkpoint; Flower only in `wire`."""
