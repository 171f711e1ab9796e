"""Training a classifier on one site's images: objective, inputs, feature cache, device."""
