"""Folders of images, as hospitals have them, to the rows of a manifest."""
