"""Benchmarks of cdtl against a lower bound and other frameworks: ``python -m simulations.bench``, or ``make bench``.

Every row has a bar, is measured in runs that take turns with what it is compared to, and is printed with its value,
met or missed; a missed one says what stops it. Values are ratios wherever a machine's speed would otherwise show.

- `rows`: one file for those that are measured together. `row`: what a row is. `ratio`: runs in turn, medians.
- `session`: the jobs, played by each arm once for all rows. `job`: what is played. `plain`: the network, images and
  steps that all arms but cdtl share. `arms`: a plain loop, the same with what keeps cdtl's promises, cdtl, Flower's
  simulation, NVFlare's.
- `program`, `nanny`, `pss`: a run as a process tree, its seconds and its memory.
"""
