"""Images from a hospital's PACS, by DICOMweb or by DIMSE, and results back to it.

What arrives keeps the attributes of `keep.py` only, and identifiers become keyed hashes before anything is written.
"""
