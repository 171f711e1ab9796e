"""DICOM files: from header, stored frame and look-up tables to a `Picture`."""

from cdtl_core.data.decode.dicom.picture import read_dicom, read_tags

__all__ = ["read_dicom", "read_tags"]
