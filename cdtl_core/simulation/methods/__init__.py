"""Federated methods to compare, one paper per file, with the same sites, seeds, steps, data and evaluation."""
