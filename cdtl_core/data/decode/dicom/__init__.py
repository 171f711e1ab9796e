"""DICOM files: header, stored frame, look-up tables, gray values; out comes a `Picture`."""

from cdtl_core.data.decode.dicom.picture import read_dicom, read_tags

__all__ = ["read_dicom", "read_tags"]
