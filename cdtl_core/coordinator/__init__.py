"""The coordinator's side, run inside Flower's ServerApp."""
