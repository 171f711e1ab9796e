"""Web desks on loopback: `cdtl site desk` and `cdtl server desk`."""
