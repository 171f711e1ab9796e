"""A table of models over one site's images, split by image and by patient."""
