"""Studies whose figures the docs quote, one for each question: ``python -m simulations.studies.NAME``."""
