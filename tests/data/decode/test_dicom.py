"""DICOM files to pictures, with pydicom's test files and its pipeline as reference."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array  # type: ignore[attr-defined]

from cdtl_core.data.decode.dicom import read_dicom
from cdtl_core.data.decode.read import read_image, read_picture
from cdtl_core.errors import DataError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = sorted(path for path in SHIPPED.rglob("*") if path.is_file())
pytestmark = pytest.mark.skipif(not FILES, reason="this pydicom ships no test files")

# Decoded by no codec of a free licence, or not at all: why is in the sentence.
NO_IMAGE = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "contradicts itself",
    "MR_truncated.dcm": "truncated",
    "badVR.dcm": "NumberOfFrames",
    "meta_missing_tsyntax.dcm": "BitsAllocated",
    "nested_priv_SQ.dcm": "BitsAllocated",
    "rtstruct.dcm": r"no pixel data \(RT Structure Set Storage\)",
    "test-SR.dcm": r"no pixel data \(Comprehensive SR Storage\)",
    "waveform_ecg.dcm": r"no pixel data \(12-lead ECG Waveform Storage\)",
    "DICOMDIR": r"no pixel data \(Media Storage Directory Storage\)",
    "README.txt": "no format",
}


def shipped(name: str) -> Path:
    return next(path for path in FILES if path.name == name)


def picture(path: Path) -> np.ndarray:
    return read_dicom(path).pixels


def reference(path: Path) -> np.ndarray:
    """Return the output of pydicom's own pipeline, as 0-255 of the range it maps to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        stored = pixel_array(dataset).astype(np.float64)
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        low = -(2.0 ** (bits - 1)) if signed else 0.0
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        bottom, top = low * slope + intercept, (low + 2.0**bits - 1) * slope + intercept
        shown = (apply_voi_lut(apply_modality_lut(stored, dataset), dataset) - bottom) / (top - bottom)
        if "PixelPaddingValue" in dataset:
            shown[stored == dataset.PixelPaddingValue] = 0
    return np.rint(255 * (1 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SHIPPED)))
def test_each_file_that_pydicom_ships_is_an_image_or_a_sentence(path: Path) -> None:
    try:
        found = read_picture(path)
    except DataError as error:
        sentence = str(error)
        assert sentence.startswith(f"the image {path} ")
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert not any(plain in sentence for plain in ("Traceback", "Errno", "0x"))
        return
    assert found.pixels.dtype == np.uint8
    assert found.pixels.ndim == 2 or found.pixels.shape[2] == 3
    assert found.pixels.min() < found.pixels.max() or path.parent.name == "CT2"
    assert found.tags is not None


def test_all_that_pydicom_decodes_is_an_image_here() -> None:
    for path in FILES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shape = pixel_array(pydicom.dcmread(path, force=True), index=0).shape
        except Exception:
            continue
        assert read_picture(path).pixels.shape[:2] == shape[:2], path


@pytest.mark.parametrize(("name", "why"), NO_IMAGE.items())
def test_what_gives_no_image_says_why(name: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_picture(shipped(name))


def test_twelve_bit_jpeg_that_pydicom_itself_cannot_decode_is_read() -> None:
    found = read_picture(shipped("JPEG-lossy.dcm"))
    assert (found.pixels.shape, found.bits) == ((1024, 256), 12)
    assert found.pixels[420, 140:145].tolist() == [round(value * 255 / 264) for value in (244, 242, 249, 260, 218)]


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "693_J2KI.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "examples_overlay.dcm",
        "6154",
        "17106",
        "2062",
        "15820",
    ],
)
def test_windows_equal_pydicoms_own_pipeline(name: str) -> None:
    path = shipped(name)
    np.testing.assert_array_equal(picture(path), reference(path))


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
        ("rtdose_rle.dcm", "rtdose.dcm"),
        ("liver_expb_1frame.dcm", "liver_1frame.dcm"),
        ("SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd.dcm"),
    ],
)
def test_compression_and_byte_order_change_nothing(compressed: str, plain: str) -> None:
    np.testing.assert_array_equal(read_image(shipped(compressed)), read_image(shipped(plain)))


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_gdcm_KY.dcm"]
)
def test_lossy_colour_is_close_to_the_lossless_one(name: str) -> None:
    difference = np.abs(read_image(shipped(name)).astype(int) - read_image(shipped("SC_rgb_rle.dcm")))
    assert difference.max() <= 8


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.97])
def test_a_jpeg_ls_file_that_was_cut_is_refused_before_its_codec_computes_for_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    whole, path = (SHIPPED / "MR_small_jpeg_ls_lossless.dcm").read_bytes(), tmp_path / "cut.dcm"
    path.write_bytes(whole)
    assert read_dicom(path).pixels.shape == (64, 64)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.as_array", lambda *_, **__: pytest.fail("a codec ran"))
    path.write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(DataError, match="its compressed frame has no end"):
        read_dicom(path)
