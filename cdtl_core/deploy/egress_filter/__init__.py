"""The site's door: a forwarder on loopback between the SuperNode and the coordinator. ``python -m`` runs it.

What comes in: messages of approved runs, bundles that the site approved. What goes out: replies that the filter has
taken apart, found to be on the egress list and written anew, and otherwise a fixed sentence. torch is not imported.
"""
