"""A hospital's files as a cohort: manifest, split, pixels, transforms; decoders and synthetic images in subpackages."""
