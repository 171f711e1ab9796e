"""Choice of the frame in a file with several frames."""

from typing import Literal

from cdtl_core.data.fault import UnreadableError

__all__ = ["Frame", "choose_frame"]

Frame = Literal["first", "middle", "last"] | int


def choose_frame(frame: Frame, count: int) -> int:
    """Return the index, from 0, of the chosen frame out of `count`; the middle of an even number is the later one.

    Raises:
        UnreadableError: The file has no frame of that index, or the choice is no frame at all.
    """
    if count < 1:
        raise UnreadableError("has no frames")
    index = {"first": 0, "middle": count // 2, "last": count - 1}.get(frame, -1) if isinstance(frame, str) else frame
    if not 0 <= index < count:
        raise UnreadableError(
            f"has {count} frame{'s' if count > 1 else ''}, the frame asked for is {frame}",
            f"ask for first, middle, last or a number from 0 to {count - 1}",
        )
    return index
