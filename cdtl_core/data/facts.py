"""Facts that a cohort check keeps about each image: numbers and a thumbnail, never the pixels."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdtl_core.data.decode.formats import series_files
from cdtl_core.data.decode.picture import DicomTags, Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.read import read_images, read_picture, survey_images
from cdtl_core.data.frame import Slices
from cdtl_core.data.glyphs import count_glyphs
from cdtl_core.data.texture import measure_texture
from cdtl_core.errors import DataError
from cdtl_core.system.durable import file_hash
from cdtl_core.system.program import num_cores
from cdtl_core.system.progress import report

__all__ = ["BINS", "THUMBNAIL", "TILES", "Fault", "ImageFacts", "examine", "examine_all"]

THUMBNAIL = 32
BINS = 32
CHROMA = 24  # gray levels
EMPTY_SPREAD = 1.0  # standard deviation in gray levels of 255 below which nothing can be seen
TEXT_SIDE = 512
TILES = 100  # of a whole slide: a check looks whether tiles can be read, not at each
WORTH_A_POOL = 200  # images; spawning a process takes about a second


@dataclass(frozen=True)
class Fault:
    """Why an image could not be examined, in one sentence."""

    file: Path
    sentence: str

    @property
    def reason(self) -> str:
        """The sentence without the file's name, equal for all files with the same fault."""
        return self.sentence.removeprefix(f"the image {self.file} ")


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """One image in about two kilobytes; gray levels are 0 to 255, of the luma if the image has colour.

    Attributes:
        file: Where it is.
        width: Pixels.
        height: Pixels.
        bits: Bits per sample that the file stores.
        format: ``PNG``, ``JPEG``, ``DICOM`` ...
        is_colour: Whether it has colour.
        coloured: Share of the pixels whose channels differ by more than 24 levels.
        mean: Of the gray levels.
        std: Of the gray levels.
        histogram: Share of the pixels in 32 equal bins.
        edges: Mean and standard deviation of the outermost 1/32 at top, bottom, left and right (8 numbers).
        bands: Standard deviation of the detail in four octaves of a 128 x 128 copy, finest first.
        textures: Median of the absolute detail where there is tissue, neither black nor white; 0 if there is none.
        skews: Skewness of the same details: positive where small bright things stand on darker ground.
        thumbnail: uint8 32 x 32, stretched to a square.
        perceptual_hash: 64 bits: signs of the thumbnail's low frequencies.
        pixels_sha256: Of the decoded pixels and their shape.
        file_sha256: Of the file's bytes.
        glyphs: The most letter-like marks in one row.
        tags: Of a DICOM file, else None.
        plan: How many images the file holds, without a list of them. The other facts are of the middle one, but both
            SHA-256 are of all.
    """

    file: Path
    width: int
    height: int
    bits: int
    format: str
    is_colour: bool
    coloured: float
    mean: float
    std: float
    histogram: npt.NDArray[np.float32]
    edges: tuple[float, ...]
    bands: tuple[float, ...]
    textures: tuple[float, ...]
    skews: tuple[float, ...]
    thumbnail: npt.NDArray[np.uint8]
    perceptual_hash: int
    pixels_sha256: str
    file_sha256: str
    glyphs: int
    tags: DicomTags | None
    plan: Plan = field(default_factory=lambda: Plan("image"))

    @property
    def is_empty(self) -> bool:
        """Whether all pixels are (nearly) the same."""
        return self.std < EMPTY_SPREAD

    @property
    def border(self) -> float:
        """Median of the four edges' mean gray levels."""
        return float(np.median(self.edges[::2]))


def examine(path: Path, tile_um: float = 1.0) -> ImageFacts | Fault:
    """Decode one image and return its facts, or the reason why it cannot be decoded.

    Of a volume every slice is decoded, of a whole slide up to 100 tiles: a fault of one is a fault of the file.

    Args:
        path: A file, or the folder of a DICOM series.
        tile_um: Micrometres per pixel of a whole slide's tiles.
    """
    try:
        picture, plan, content = _read(path, tile_um)
        digest = _digest(path)
    except (DataError, OSError) as error:
        return Fault(path, str(error))
    return _facts(path, picture, digest, content, plan)


def _read(path: Path, tile_um: float) -> tuple[Picture, Plan, str]:
    """Return the middle image of a file (of a slide by contrast), what else it holds, and the SHA-256 of the pixels."""
    plan = survey_images(path, Survey(Slices(TILES), tile_um=tile_um))
    if plan.kind != "slide":
        plan = replace(plan, chosen=tuple(range(plan.total)))
    if not (plan.has_neighbours or plan.kind == "slide"):
        middle = read_picture(path)
        return middle, plan, _sha256(middle.pixels)
    digests, tiles = list[str](), list[Picture]()
    for picture in read_images(path, plan):
        if len(digests) <= plan.count // 2:
            middle = picture
        if plan.kind == "slide":
            tiles.append(picture)
        digests.append(_sha256(picture.alone))
    if tiles:  # the place of a tile means nothing; its detail may be unusual
        middle = sorted(tiles, key=lambda tile: float(tile.pixels.std()))[len(tiles) // 2]
    return middle, plan, hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(pixels: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a series."""
    if not path.is_dir():
        return file_hash(path)
    return hashlib.sha256("".join(file_hash(child) for child in series_files(path)).encode()).hexdigest()


def examine_all(paths: Sequence[Path], workers: int | None = None, tile_um: float = 1.0) -> list[ImageFacts | Fault]:
    """Return the facts or the fault of each image, in order.

    Each process holds at most one image in memory. Progress goes to `cdtl_core.system.progress`.

    Args:
        paths: Image files.
        workers: Number of processes; None: one per core.
        tile_um: Micrometres per pixel of a whole slide's tiles.

    Raises:
        DataError: A process was killed, for lack of memory or by a decoder that crashed.
    """
    count = workers or num_cores()
    found = []
    for number, facts in enumerate(_stream(paths, count, tile_um), start=1):
        found.append(facts)
        report(examined=number, of=len(paths))
    return found


def _stream(paths: Sequence[Path], workers: int, tile_um: float) -> Iterator[ImageFacts | Fault]:
    look = partial(examine, tile_um=tile_um)
    if workers == 1 or len(paths) < WORTH_A_POOL:
        yield from map(look, paths)
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(look, paths, chunksize=16)
    except BrokenProcessPool:
        raise DataError(
            "a process that decoded images was killed: give it more memory, or find the image with one worker."
        ) from None


def _facts(path: Path, picture: Picture, digest: str, content: str, plan: Plan) -> ImageFacts:
    """Return the facts of an image.

    Args:
        path: Its file.
        picture: The image.
        digest: SHA-256 of the file.
        content: SHA-256 of the decoded pixels.
        plan: Which images the file holds.
    """
    image = Image.fromarray(picture.alone).convert("L")
    gray = np.asarray(image)
    height, width = gray.shape
    details = measure_texture(image)
    thumbnail = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))
    return ImageFacts(
        file=path,
        width=width,
        height=height,
        bits=picture.bits,
        format=picture.format,
        is_colour=picture.is_colour,
        coloured=_coloured(picture.alone),
        mean=float(gray.mean()),
        std=float(gray.std()),
        histogram=(np.bincount(gray.ravel() // (256 // BINS), minlength=BINS) / gray.size).astype(np.float32),
        edges=_edges(gray),
        bands=tuple(detail.spread for detail in details),
        textures=tuple(detail.texture for detail in details),
        skews=tuple(detail.skew for detail in details),
        thumbnail=thumbnail,
        perceptual_hash=_perceptual_hash(thumbnail),
        pixels_sha256=content,
        file_sha256=digest,
        glyphs=count_glyphs(_reduced(image)),
        tags=picture.tags,
        plan=replace(plan, chosen=(), items=()),
    )


def _edges(gray: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    rows, columns = max(1, gray.shape[0] // THUMBNAIL), max(1, gray.shape[1] // THUMBNAIL)
    strips = (gray[:rows], gray[-rows:], gray[:, :columns], gray[:, -columns:])
    return tuple(float(value) for strip in strips for value in (strip.mean(), strip.std()))


def _coloured(pixels: npt.NDArray[np.uint8]) -> float:
    if pixels.ndim == 2:
        return 0.0
    return float(np.mean(pixels.max(axis=2) - pixels.min(axis=2) > CHROMA))


def _perceptual_hash(thumbnail: npt.NDArray[np.uint8]) -> int:
    from scipy.fft import dctn

    low = dctn(thumbnail.astype(np.float64))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _reduced(image: Image.Image) -> npt.NDArray[np.uint8]:
    factor = -(-max(image.size) // TEXT_SIDE)
    return np.asarray(image.reduce(factor) if factor > 1 else image)
