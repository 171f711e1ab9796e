"""A hospital's files as a cohort: manifest, split, pixels and transforms, with decoders and synthetic images."""
