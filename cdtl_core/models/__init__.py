"""Backbones, the classifier with its shared and local parts, and weights files."""
