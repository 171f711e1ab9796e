"""Pure torch: backbones, the model and its split, weights, training, scores and metrics; no network, no server."""
