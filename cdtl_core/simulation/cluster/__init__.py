"""Simulations and comparisons on an existing Ray cluster."""
