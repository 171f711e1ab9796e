"""Federated methods to compare, one paper a file, all through the same sites, seeds, steps, data and evaluation."""
