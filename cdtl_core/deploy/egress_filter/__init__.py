"""The egress filter: a proxy on loopback between the SuperNode and the coordinator, run by ``python -m``.

In: messages of approved runs, and bundles that the site approved. Out: replies that the filter has decoded, compared
with the egress list and encoded again, or else a fixed sentence. torch is not imported.
"""
