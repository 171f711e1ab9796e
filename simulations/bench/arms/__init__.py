"""The programs that play a job: a plain loop, a floor, cdtl, Flower's simulation, NVFlare's."""
