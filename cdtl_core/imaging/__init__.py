"""A hospital's files to tensors: read, manifest, split, pixels, cohort, transforms, phantom."""
