"""Backbones, the classifier and its split into shared and local parts, weights files."""
