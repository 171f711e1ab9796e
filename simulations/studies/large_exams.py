"""Memory and processor time of large exams: a CT series of 512 slices, and 10,000 tiles of a whole slide.

    python -m simulations.studies.large_exams [--what ct,slide] [--shares 0.25,0.5,1] [--out large_exams.json]

Each exam is written (a series with 512 x 512 pixels of 16 bits, a slide as a pyramidal TIFF of JPEG tiles), then opened
and scored by a program of its own: headers are read, all images are decoded into the cohort and pass through
EfficientNet-Lite0 with attention, and the exam gets one score. Peak memory is that of the whole tree of processes
(proportional set sizes), the readers among them. Processor seconds of parts of the exam show whether time grows with
the number of images.
Exit code 1 if a peak is above its bar: 2 GB for the series, 3 GB for the slide.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.data.synthetic.series import write_series
from simulations.bench.program import play, python_program

__all__ = ["BARS", "measure", "write_ct", "write_slide"]

BARS = {"ct": 2e9, "slide": 3e9}
IMAGES = {"ct": 512, "slide": 10_000}
SIZE = 128  # pixels of the network's images, and of a tile
_SIDE = 512  # of a slice
_BLOCK = 256  # of the slide's file


def write_ct(folder: Path, count: int) -> Path:
    """Write a CT series of `count` slices and return its folder."""
    import pydicom

    shape = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).astype(np.uint8)
    write_series(folder / "first", shape[None], name="ct", spacing=0.7, thickness=1.0)
    (first,) = (folder / "first").iterdir()
    data, series = pydicom.dcmread(first), folder / "series"
    series.mkdir()
    data.Modality, data.RescaleSlope, data.RescaleIntercept = "CT", 1, -200
    for place in range(count):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"1.2.3.{place + 1}")
        data.ImagePositionPatient = [0.0, 0.0, float(place)]
        data.PixelData = (4 * np.roll(shape, 3 * place, axis=0).astype("<u2")).tobytes()
        data.save_as(series / f"{place}.dcm")
    return series


def write_slide(path: Path, tiles: int) -> Path:
    """Write a slide that is all tissue, of about `tiles` tiles at one micrometre per pixel, and half the resolution."""
    import tifffile

    side = round(tiles**0.5) * SIZE
    told: dict[str, Any] = {"tile": (_BLOCK, _BLOCK), "photometric": "rgb", "compression": "jpeg", "dtype": np.uint8}

    def blocks(length: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        block = np.tile(np.array([200, 110, 170], np.uint8), (_BLOCK, _BLOCK, 1))
        block[::7, ::5] -= rng.integers(0, 60, (37, 52, 3), np.uint8)
        for number in range((-(-length // _BLOCK)) ** 2):
            yield np.roll(block, number, axis=0)

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        resolution: Any = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
        writer.write(blocks(side), shape=(side, side, 3), subifds=1, **told, **resolution)
        writer.write(blocks(side // 2), shape=(side // 2, side // 2, 3), subfiletype=1, **told)
    return path


def measure(what: str, share: float = 1.0) -> dict[str, Any]:
    """Return images, peak bytes and processor seconds of opening and scoring an exam.

    Args:
        what: ``ct`` or ``slide``.
        share: Of the exam's images that are used.
    """
    with tempfile.TemporaryDirectory(prefix="cdtl-exams-") as name:
        source = (
            write_ct(Path(name), IMAGES[what]) if what == "ct" else write_slide(Path(name) / "s.tiff", IMAGES[what])
        )
        wanted = max(1, round(share * IMAGES[what]))
        run = play(
            python_program("simulations.studies.large_exams", "--open", source, "--slices", wanted, "--said", "{said}"),
            memory=True,
            timeout_s=3600,
        )
    return {"what": what, "peak_bytes": run.peak_pss, "cpu_s": run.cpu_s, **run.said}


def _open(source: Path, slices: int) -> dict[str, Any]:
    """Open an exam and score it with a network of random weights."""
    from cdtl_core.config import ModelConfig
    from cdtl_core.data.cohort import Fold
    from cdtl_core.data.frame import Slices
    from cdtl_core.data.pixels import load_pixels
    from cdtl_core.models.model import build_classifier
    from cdtl_core.training.device import CPU
    from cdtl_core.training.scoring import score

    found = load_pixels([source], size=SIZE, folder=Path("cache"), slices=Slices(slices))
    one, count = np.zeros(1, np.int64), int(found.counts[0])
    fold = Fold(found.array, np.arange(count), one, one, one, found.counts)
    config = ModelConfig(weights="random", pooling="attention")
    scores = score(build_classifier(config, 2, image_size=SIZE), fold, device=CPU)
    return {"images": count, "shape": list(found.array.shape), "score": scores.tolist()}


def main() -> int:
    """Measure, print, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="ct,slide")
    parser.add_argument("--shares", default="0.25,0.5,1")
    parser.add_argument("--out", type=Path, default=Path("large_exams.json"))
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--said", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        given.said.write_text(json.dumps(_open(given.open, given.slices)), encoding="utf-8")
        return 0
    found = [measure(what, float(share)) for what in given.what.split(",") for share in given.shares.split(",")]
    for one in found:
        per = 1000 * one["cpu_s"] / one["images"]
        sys.stdout.write(
            f"{one['what']}: {one['images']} images, peak {one['peak_bytes'] / 1e6:.0f} MB, {one['cpu_s']:.0f} s of "
            f"processors, {per:.1f} ms an image\n"
        )
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(one["peak_bytes"] > BARS[one["what"]] for one in found))


if __name__ == "__main__":
    sys.exit(main())
