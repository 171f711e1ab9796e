"""Errors of unreadable files, raised before the file's name is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdtl_core.errors import DataError

__all__ = ["LARGEST_BYTES", "UnreadableError", "check_size", "guarded", "refuse"]

LARGEST_BYTES = 400_000_000
_RESTORE = "restore the file from its source or leave it out"


class UnreadableError(Exception):
    """An unreadable file; never holds values of its header, which may name a patient.

    Attributes:
        what: What is wrong, as a phrase after the file's name: ``is truncated``.
        do: What the reader should do.
    """

    def __init__(self, what: str, do: str = _RESTORE) -> None:
        super().__init__(what)
        self.what, self.do = what, do


def refuse(path: Path, fault: UnreadableError) -> DataError:
    """Return the error that names the file, in one sentence on one line."""
    return DataError(" ".join(f"the image {path} {fault.what}: {fault.do}.".split("\n")))


@contextmanager
def guarded(path: Path, form: str) -> Iterator[None]:
    """Turn every error of reading a file into one sentence that names it.

    Args:
        path: The file, or the folder of a series.
        form: Its format, for what a library reports in words of its own.

    Raises:
        DataError: In place of any other error.
    """
    try:
        yield
    except DataError:
        raise
    except UnreadableError as fault:
        raise refuse(path, fault) from None
    except OSError as error:
        raise refuse(path, UnreadableError(f"cannot be read ({error.strerror or 'it ends early'})")) from None
    except MemoryError:
        raise refuse(path, UnreadableError("is damaged, or needs more memory than there is")) from None
    except Exception as error:  # the libraries have no error families of their own, and their texts quote the header
        raise refuse(path, UnreadableError(f"is damaged or no valid {form} ({type(error).__name__})")) from None


def check_size(height: int, width: int, bytes_per_pixel: float) -> None:
    """Refuse an image that is too large, before memory is allocated for it.

    Args:
        height: Rows.
        width: Columns.
        bytes_per_pixel: As stored or as uint8, whichever is larger.

    Raises:
        UnreadableError: It has no pixels, or more than 400 MB once decoded.
    """
    if height < 1 or width < 1:
        raise UnreadableError("has no pixels (its height or width is 0)")
    size = height * width * bytes_per_pixel
    if size > LARGEST_BYTES:
        raise UnreadableError(
            f"claims {width} x {height} pixels, {size / 1e6:.0f} MB where {LARGEST_BYTES / 1e6:.0f} MB is the most",
            "export it at a lower resolution or leave it out",
        )
