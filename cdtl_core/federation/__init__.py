"""The round without a network: site, aggregate, blend, coordinator, checkpoint, gate; Flower only in wire."""
