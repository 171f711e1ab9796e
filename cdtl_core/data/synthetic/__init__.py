"""Synthetic lesion images for tests and the demo; they say nothing about medicine."""
