"""Which images of a file are read and in which order: what a survey of its headers finds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from cdtl_core.data.frame import Slices

__all__ = ["Kind", "Plan", "Survey"]

_EXAMPLES = 3
Kind = Literal["image", "pages", "frames", "volume", "series", "nifti", "slide"]
"""image: one image; pages: of a TIFF file; frames: of a DICOM file, without geometry; volume: slices of one DICOM file;
series: a folder of DICOM slices; nifti; slide: tiles of a whole slide."""


@dataclass(frozen=True)
class Survey:
    """What is asked about a file.

    Attributes:
        slices: Which of its images are used.
        tile_px: Side of a slide's tiles, in pixels.
        tile_um: Micrometres per pixel of a slide's tiles; 0: those of the slide's finest level.
    """

    slices: Slices = field(default_factory=Slices)
    tile_px: int = 224
    tile_um: float = 1.0

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Survey":
        """Return the survey that `asdict` wrote."""
        return cls(Slices(**found["slices"]), found["tile_px"], found["tile_um"])


@dataclass(frozen=True)
class Plan:
    """How the images of one file are read.

    Attributes:
        kind: What the file is.
        total: Number of images that it holds: frames, slices, or tiles with tissue.
        chosen: Indices of those that are used.
        items: Where each of all images is: names of files in the folder, or frame numbers. Of a slide x and y of each
            chosen tile, in pixels of the finest level.
        pixel_mm: Height and width of a stored pixel; empty: square.
        spacing_mm: Distance of neighbouring slices; None: not known.
        missing: Number of slices that are missing between others.
        plane: The plane of a volume's slices: ``axial``, ``coronal`` or ``sagittal``.
        left_out: Names of files in the folder that are no DICOM files.
        level: Of a slide: the level that is read, and the side of a tile in its pixels.
    """

    kind: Kind
    total: int = 1
    chosen: Sequence[int] = (0,)
    items: Sequence[Any] = ()
    pixel_mm: Sequence[float] = ()
    spacing_mm: float | None = None
    missing: int = 0
    plane: str = ""
    left_out: Sequence[str] = ()
    level: Sequence[int] = ()

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Plan":
        """Return the plan that `as_dict` wrote."""
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
        }
        return cls(**told)

    @property
    def count(self) -> int:
        """Number of images that are read."""
        return len(self.chosen)

    @property
    def gaps(self) -> Iterator[str]:
        """What is missing between slices, and what was not read of a folder: a few words for each."""
        if self.missing:
            yield f"slices missing between its {self.total}: {self.missing}"
        if self.left_out:
            more = ", ..." if len(self.left_out) > _EXAMPLES else ""
            names = ", ".join(self.left_out[:_EXAMPLES])
            yield f"files in its folder that are not read: {len(self.left_out)} ({names}{more})"

    @property
    def has_neighbours(self) -> bool:
        """Whether the images are slices whose neighbours in space are known."""
        return self.kind in {"volume", "series", "nifti"}

    def only(self, index: int) -> "Plan":
        """Return the plan for one of all images."""
        return replace(self, chosen=(index,))

    def rest(self, start: int) -> Iterator[int]:
        """Yield the chosen indices from the `start`-th on."""
        yield from self.chosen[start:]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return asdict(self)
