"""Whole federations on one machine: simulate, compare, and the methods to compare."""
