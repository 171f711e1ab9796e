"""Choice among the images of a file with several: one frame, or the slices of a volume and the tiles of a slide."""

import re
from dataclasses import dataclass
from typing import Literal

from cdtl_core.data.fault import UnreadableError
from cdtl_core.errors import ConfigError

__all__ = ["Frame", "Slices", "choose_frame"]

Frame = Literal["first", "middle", "last"] | int

_RANGE = re.compile(r"(\d*):(\d*)(?::([1-9]\d*))?")


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


@dataclass(frozen=True)
class Slices:
    """Which images of a file with several are used.

    Attributes:
        number: That many, evenly spaced; 0: all of the range.
        start: First index of the range, from 0.
        stop: End of the range, itself not used; None: up to the last image.
        step: Distance of the images in the range.
    """

    number: int = 0
    start: int = 0
    stop: int | None = None
    step: int = 1

    @classmethod
    def parse(cls, text: str | int) -> "Slices":
        """Return the choice that ``data.slices`` names: ``"all"``, a number, ``"100:300"`` or ``"100:300:2"``.

        Raises:
            ConfigError: It is none of these.
        """
        if text == "all":
            return cls()
        found = _RANGE.fullmatch(str(text).strip())
        if found:
            start, stop, step = (int(part) if part else None for part in found.groups())
            if stop is None or stop > (start or 0):
                return cls(0, start or 0, stop, step or 1)
        elif str(text).isdecimal() and int(text) > 0:
            return cls(int(text))
        raise ConfigError(
            f'data.slices is \'{text}\': write "all", a number of images, or a range such as "100:300" or '
            '"100:300:2", whose end is above its start.'
        )

    def choose(self, count: int) -> tuple[int, ...]:
        """Return the indices, from 0 and ascending, of the chosen images out of `count`.

        Of a number, each is the middle of an equal part of the file; a file with fewer images gives all of them. A file
        with one image gives it in any case.

        Raises:
            UnreadableError: The file has no images, or none in the range.
        """
        if count < 1:
            raise UnreadableError("has no images")
        if count == 1 or (self.number and count <= self.number):
            return tuple(range(count))
        if self.number:
            return tuple((2 * place + 1) * count // (2 * self.number) for place in range(self.number))
        chosen = tuple(range(self.start, min(count, count if self.stop is None else self.stop), self.step))
        if not chosen:
            raise UnreadableError(
                f"has {count} images and the range asked for begins at {self.start}",
                f'choose a range within 0:{count} in data.slices, or "all"',
            )
        return chosen

    def __str__(self) -> str:
        if self.number:
            return str(self.number)
        if self == Slices():
            return "all"
        end = "" if self.stop is None else self.stop
        return f"{self.start}:{end}" + (f":{self.step}" if self.step > 1 else "")
