"""Detection of burned-in text: near-binary marks of one height in a row."""

import numpy as np
import numpy.typing as npt

__all__ = ["count_glyphs"]

WINDOW = 11  # pixels: strokes are thinner, tissue interfaces mostly longer
CONTRAST = 70  # gray levels of 255 between stroke and ground
HEIGHTS = (4, 26)  # pixels, at a longest side of 512 or less
WIDTHS = (0.15, 1.6)  # letter heights
FILLED = (0.2, 0.98)  # share of the bounding box
GAP = 1.6  # widest gap between two letters, in letter heights
OVERLAP = 0.1  # letter heights: slanted letters
LINE = 0.25  # letter heights by which the feet of neighbours may differ
TALLER = 1.45  # letters of one row differ by less than this factor in height
BRIGHTER = 25  # gray levels: and by no more than this in their brightest pixel, as near-binary marks do
SMALLEST = 128  # pixels of the longer side; below it nothing could be read


Marks = npt.NDArray[np.int64]  # one row per mark: top, bottom, left, right in pixels, brightest gray level


def count_glyphs(gray: npt.NDArray[np.uint8]) -> int:
    """Count the letter-like marks in the longest row of an image (H W), light on dark or dark on light.

    Text has at least 3. Speckle, calcifications and tissue borders rarely form such rows.
    """
    if max(gray.shape) < SMALLEST:
        return 0
    return max(_longest_row(_marks(gray)), _longest_row(_marks(np.uint8(255) - gray)))


def _marks(gray: npt.NDArray[np.uint8]) -> Marks:
    """Letter-like blobs, from left to right."""
    from scipy import ndimage

    ground = ndimage.grey_opening(gray, size=(WINDOW, WINDOW))
    strokes = gray.astype(np.int16) - ground > CONTRAST
    labelled, count = ndimage.label(strokes, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros((0, 5), np.int64)
    peaks = np.zeros(count + 1, np.uint8)
    np.maximum.at(peaks, labelled[strokes], gray[strokes])
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labelled)]
    marks: Marks = np.hstack([np.array(boxes, np.int64), peaks[1:, None].astype(np.int64)])
    marks = marks[_are_letters(marks, np.bincount(labelled.ravel())[1:])]
    return marks[np.argsort(marks[:, 2], kind="stable")]


def _are_letters(marks: Marks, areas: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    heights, widths = marks[:, 1] - marks[:, 0], marks[:, 3] - marks[:, 2]
    filled = areas / (heights * widths)
    fitting: npt.NDArray[np.bool_] = (
        (heights >= HEIGHTS[0])
        & (heights <= HEIGHTS[1])
        & (widths >= WIDTHS[0] * heights)
        & (widths <= WIDTHS[1] * heights)
        & (filled >= FILLED[0])
        & (filled <= FILLED[1])
    )
    return fitting


def _longest_row(marks: Marks) -> int:
    """Return the longest row of letters from left to right: similar height and brightness, same line, small gaps."""
    best = np.zeros(len(marks), np.int64)
    for i, mark in enumerate(marks):
        before = best[:i][_lead_to(marks[:i], mark)]
        best[i] = 1 + before.max(initial=0)
    return int(best.max(initial=0))


def _lead_to(marks: Marks, mark: Marks) -> npt.NDArray[np.bool_]:
    """Return which of `marks` may be the letter before `mark`."""
    heights, height = marks[:, 1] - marks[:, 0], mark[1] - mark[0]
    tall, short = np.maximum(heights, height), np.minimum(heights, height)
    gaps = mark[2] - marks[:, 3]
    leading: npt.NDArray[np.bool_] = (
        (tall <= TALLER * short)
        & (np.abs(marks[:, 4] - mark[4]) <= BRIGHTER)
        & (np.abs(marks[:, 1] - mark[1]) <= LINE * tall)
        & (gaps >= -OVERLAP * tall)
        & (gaps <= GAP * tall)
    )
    return leading
