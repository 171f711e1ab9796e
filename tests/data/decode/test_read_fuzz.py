"""Damaged files: reading gives a picture or one sentence in limited time, and the reader survives."""

import io
import os
import random
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cdtl_core.data.decode import reader
from cdtl_core.data.decode.read import read_image, read_picture
from cdtl_core.errors import DataError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
DICOM = (
    *("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    *("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEG-lossy.dcm", "SC_rgb_rle_16bit_2frame.dcm"),
    *("SC_rgb_small_odd.dcm", "rtdose_rle.dcm", "MR_small_bigendian.dcm", "test-SR.dcm"),
)
GRAY = (np.add.outer(np.arange(24), np.arange(20)) * 5).astype(np.uint8)
COLOUR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=2)


def encode(array: np.ndarray, format: str, mode: str = "", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    rasters = [encode(array, format) for format in ("PNG", "JPEG", "BMP", "PPM", "TIFF") for array in (GRAY, COLOUR)]
    rasters += [encode(COLOUR, "PNG", mode) for mode in ("P", "LA", "RGBA", "1")]
    rasters += [encode(GRAY.astype(np.uint16) * 200, format) for format in ("PNG", "TIFF")]
    rasters += [encode(COLOUR, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    rasters += [encode(COLOUR, "TIFF", "1", compression="group4"), encode(COLOUR, "JPEG", "CMYK")]
    pages = [Image.fromarray(GRAY)] * 2
    rasters.append(encode(COLOUR, "TIFF", save_all=True, append_images=pages))
    return rasters + [(SHIPPED / name).read_bytes() for name in DICOM if (SHIPPED / name).exists()]


SEEDS = seeds()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "image"


def outcome(path: Path, data: bytes) -> str:
    """Read damaged data; fails on anything but a picture or a sentence, and if the reader's time runs out."""
    path.write_bytes(data)
    try:
        pixels = read_picture(path).pixels
        assert pixels.dtype == np.uint8
        assert pixels.size
        found = "picture"
    except DataError as error:
        sentence = str(error)
        assert sentence.startswith(f"the image {path} ")
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert "too long" not in sentence  # the reader has a minute; a JPEG-LS file with changed bytes may cost 4 s
        found = "crash" if "crashes the decoder" in sentence else "refused"
    return found


def damage(data: bytes, rng: random.Random) -> bytes:
    """Cut, or set some bytes, most of them near the start, where the headers are."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(min(len(data), rng.choice([200, 1500, len(data)])))
        damaged[place] = rng.choice([rng.randrange(256), 0, 255, damaged[place] ^ 1 << rng.randrange(8)])
    return bytes(damaged)


FUZZ = settings(
    max_examples=3 * settings().max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


@FUZZ
@given(seed=st.sampled_from(SEEDS), share=st.floats(0, 1))
def test_a_file_cut_anywhere_is_read_or_refused(scratch: Path, seed: bytes, share: float) -> None:
    outcome(scratch, seed[: round(share * len(seed))])


@FUZZ
@given(
    seed=st.sampled_from(SEEDS),
    flips=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_file_with_changed_bytes_is_read_or_refused(scratch: Path, seed: bytes, flips: list[tuple[int, int]]) -> None:
    data = bytearray(seed)
    for place, value in flips:
        data[place % min(len(data), 2000)] = value
    outcome(scratch, bytes(data))


@FUZZ
@given(
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"\xff\xd8\xff", b"\x08\0\x05\0", b"D"]),
    tail=st.binary(max_size=400),
)
def test_noise_behind_a_known_start_is_refused(scratch: Path, head: bytes, tail: bytes) -> None:
    outcome(scratch, (bytes(128) + b"DICM" if head == b"D" else head) + tail)


@pytest.mark.slow
def test_twenty_thousand_damaged_files_harm_nothing(scratch: Path) -> None:
    rng = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counter(outcome(scratch, damage(rng.choice(SEEDS), rng)) for _ in range(20_000))
    assert found["picture"] > 2000
    assert found["refused"] > 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.fixture
def lossless_jpeg() -> bytes:
    path = SHIPPED / "SC_rgb_jpeg_gdcm.dcm"
    if not path.exists():
        pytest.skip("this pydicom does not ship it")
    return path.read_bytes()


@pytest.mark.integration
def test_a_file_that_aborts_its_codec_is_refused_and_the_next_is_read(
    scratch: Path, lossless_jpeg: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = bytearray(lossless_jpeg)
    damaged[damaged.find(b"\xff\xd8\xff") + 2] = 0  # gdcm 3.2 throws across C code here, which ends its process
    assert outcome(scratch, bytes(damaged)) in {"crash", "refused"}
    assert outcome(scratch, lossless_jpeg) == "picture"
    assert capfd.readouterr() == ("", "")


@pytest.mark.integration
def test_a_reader_that_was_killed_is_replaced(scratch: Path, lossless_jpeg: bytes) -> None:
    assert outcome(scratch, lossless_jpeg) == "picture"
    for process in reader._idle:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert outcome(scratch, lossless_jpeg) == "picture"


def test_a_file_that_takes_too_long_is_refused(
    scratch: Path, lossless_jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome(scratch, lossless_jpeg) == "picture"
    monkeypatch.setattr(reader, "_TIMEOUT_S", 0.3)
    for process in reader._idle:
        os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(DataError, match="takes too long to decode"):
        read_picture(scratch)


@pytest.mark.integration
def test_damaged_files_write_nothing_to_the_terminal(scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(1)
    for seed in SEEDS:
        outcome(scratch, damage(seed, rng))
    assert capfd.readouterr() == ("", "")


@pytest.mark.integration
def test_threads_read_side_by_side_and_leave_the_warning_filters_alone(tmp_path: Path, lossless_jpeg: bytes) -> None:
    def write(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    paths = [write(f"{index}.dcm", lossless_jpeg) for index in range(12)]
    paths += [write(f"{index}.png", encode(COLOUR, "PNG")) for index in range(12)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(read_image, paths))
    assert warnings.filters == before
    assert all((picture == pictures[0]).all() for picture in pictures[:12])
    assert all((picture == COLOUR).all() for picture in pictures[12:])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "does not exist: correct its path or restore the file"),
        (Path.mkdir, "holds no DICOM files"),
        (Path.touch, "is empty"),
        (lambda path: path.write_text("this is no image"), "is in no format that can be read"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    make(tmp_path / "scan.dcm")
    with pytest.raises(DataError, match=rf"scan\.dcm {why}"):
        read_picture(tmp_path / "scan.dcm")
