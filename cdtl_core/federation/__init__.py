"""The round without a network: site, aggregate, blend, coordinator, checkpoint, egress, gate; Flower only in wire."""
