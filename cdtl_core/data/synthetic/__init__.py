"""Synthetic lesion images for tests and the demo; results on them have no medical meaning."""
