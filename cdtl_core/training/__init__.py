"""Training on one site's images: objective, inputs, feature cache, device."""
