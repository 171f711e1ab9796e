"""Whole slides as tiles: a mask of the tissue on the coarsest level, tiles at one resolution read one by one."""
