"""Image files to arrays: PNG, JPEG and TIFF in this process, DICOM in a sandboxed one."""

__all__ = ["INTAKE_VERSION"]

INTAKE_VERSION = 2
"""Version of what the decoders make of a file. Sites of one federation must have the same."""
