"""File formats by the first bytes of a file."""

__all__ = ["is_dicom", "is_tiff"]


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with these bytes (132 at least) is DICOM, or a DICOM data set without preamble."""
    if head[128:132] == b"DICM":
        return True
    # The first element is of group 2 or 8, and its number below 256, in either byte order.
    is_little = head[:2] in {b"\x02\x00", b"\x08\x00"} and head[3:4] == b"\x00"
    is_big = head[:2] in {b"\x00\x02", b"\x00\x08"} and head[2:3] == b"\x00"
    return is_little or is_big


def is_tiff(head: bytes) -> bool:
    """Whether a file that starts with these bytes is TIFF or BigTIFF."""
    return head[:4] in {b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"}
