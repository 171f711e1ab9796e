"""Volumes as images in order: a DICOM series, an enhanced multi-frame file, a NIfTI file."""
