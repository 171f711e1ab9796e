"""The programs that play a job: a plain loop, cdtl, Flower's simulation, NVFlare's."""
