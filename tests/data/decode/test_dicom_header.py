"""DICOM data sets made by hand: the effect of each header element on the picture."""

# mypy: disable-error-code=arg-type

import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from cdtl_core.data.decode.dicom import read_dicom
from cdtl_core.data.decode.read import read_image, read_picture
from cdtl_core.data.frame import Frame
from cdtl_core.errors import DataError


def make(path: Path, values: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Path:
    """Write a DICOM file: `values` F H W, H W, or H W 3, `elements` replace what follows from them."""
    is_colour = values.shape[-1] == 3 and values.ndim > 2
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.PatientID, dataset.Modality = "Secret^Name", "MG"
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = values.shape[-3:-1] if is_colour else values.shape[-2:]
    if values.ndim - is_colour > 2:
        dataset.NumberOfFrames = len(values)
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in elements.items():
        setattr(dataset, name, value)
    if "PixelData" not in elements and values.dtype.kind == "f":
        dataset.FloatPixelData = values.tobytes()
    elif "PixelData" not in elements:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OW" if values.dtype.itemsize > 1 else "OB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return path


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def picture(path: Path, frame: Frame = "middle") -> np.ndarray:
    return read_dicom(path, frame).pixels


def test_rescale_and_window_follow_the_standards_formula(tmp_path: Path) -> None:
    stored = np.array([[0, 900, 1000, 1100, 4000]], np.uint16)
    path = make(tmp_path / "x", stored, RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=0.5, WindowWidth=201)
    np.testing.assert_array_equal(picture(path), [[0, 0, 128, 255, 255]])
    exact = make(tmp_path / "y", stored, WindowCenter=[1000, 5], WindowWidth=[200, 5], VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(picture(exact), [[0, 0, 128, 255, 255]])
    sigmoid = make(tmp_path / "z", stored, WindowCenter=1000, WindowWidth=200, VOILUTFunction="SIGMOID")
    np.testing.assert_array_equal(picture(sigmoid), [[0, 30, 128, 225, 255]])


def test_a_window_one_wide_is_a_step(tmp_path: Path) -> None:
    path = make(tmp_path / "x", np.array([[4, 5, 6]], np.uint16), WindowCenter=5.5, WindowWidth=1)
    np.testing.assert_array_equal(picture(path), [[0, 128, 255]])


def test_without_a_window_eight_bits_are_kept_and_more_are_stretched(tmp_path: Path) -> None:
    eight = np.array([[3, 7, 90]], np.uint8)
    np.testing.assert_array_equal(picture(make(tmp_path / "a", eight)), eight)
    np.testing.assert_array_equal(picture(make(tmp_path / "b", eight, RescaleSlope=2, RescaleIntercept=-9)), eight)
    deep = np.array([[-500, 0, 500]], np.int16)
    np.testing.assert_array_equal(picture(make(tmp_path / "c", deep)), [[0, 128, 255]])
    whole = np.array([[10, 20, 30]], np.uint32)
    np.testing.assert_array_equal(picture(make(tmp_path / "d", whole)), [[0, 128, 255]])
    floats = np.array([[-1.0, np.nan, 1.0]], np.float32)
    np.testing.assert_array_equal(picture(make(tmp_path / "e", floats)), [[0, 0, 255]])
    same = np.full((4, 4), 700, np.uint16)
    np.testing.assert_array_equal(picture(make(tmp_path / "f", same)), np.zeros((4, 4)))


def test_large_and_small_images_go_through_the_same_curve(tmp_path: Path) -> None:
    small = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    large = np.tile(small, (20, 20))
    window = {"WindowCenter": 2000, "WindowWidth": 3000, "PixelPaddingValue": 4080}
    found = picture(make(tmp_path / "x", large, **window))
    np.testing.assert_array_equal(found[:16, :16], picture(make(tmp_path / "y", small, **window)))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = make(tmp_path / "x", np.array([[0, 55, 255]], np.uint8), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(picture(path), [[255, 200, 0]])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_sets_no_scale(tmp_path: Path, photometric: str) -> None:
    stored = np.array([[-2000, -1990, 100, 300]], np.int16)
    path = make(
        tmp_path / "x",
        stored,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    expected = [[0, 0, 0, 255]] if photometric == "MONOCHROME2" else [[0, 0, 255, 0]]
    np.testing.assert_array_equal(picture(path), expected)


def test_lookup_tables_replace_rescale_and_window(tmp_path: Path) -> None:
    table = item(LUTDescriptor=[4, 10, 16], LUTData=[0, 100, 1000, 65535])
    table["LUTData"].VR = table["LUTDescriptor"].VR = "US"
    stored = np.array([[0, 10, 11, 12, 13, 99]], np.uint16)
    path = make(tmp_path / "x", stored, VOILUTSequence=Sequence([table]), WindowCenter=5, WindowWidth=2)
    np.testing.assert_array_equal(picture(path), np.rint(np.array([[0, 0, 100, 1000, 65535, 65535]]) / 257))
    path = make(tmp_path / "y", stored, ModalityLUTSequence=Sequence([table]), WindowCenter=500.5, WindowWidth=801)
    np.testing.assert_array_equal(picture(path), [[0, 0, 0, 255, 255, 255]])


def test_palette_and_segmented_palette_give_the_same_colours(tmp_path: Path) -> None:
    ramp = np.arange(0, 256 * 256, 256, dtype=np.uint16)
    plain = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour, data in (("Red", ramp), ("Green", ramp[::-1].copy()), ("Blue", 0 * ramp))
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", data.tobytes()))
    }
    segments = {"Red": [0, 1, 0, 1, 255, 65280], "Green": [0, 1, 65280, 1, 255, 0], "Blue": [0, 1, 0, 1, 255, 0]}
    segmented = {
        f"Segmented{colour}PaletteColorLookupTableData": np.array(words, np.uint16).tobytes()
        for colour, words in segments.items()
    } | {name: value for name, value in plain.items() if name.endswith("Descriptor")}
    stored = np.array([[0, 128, 255]], np.uint8)
    first = picture(make(tmp_path / "x", stored, PhotometricInterpretation="PALETTE COLOR", **plain))
    assert first.tolist() == [[[0, 254, 0], [128, 127, 0], [254, 0, 0]]]
    second = picture(make(tmp_path / "y", stored, PhotometricInterpretation="PALETTE COLOR", **segmented))
    np.testing.assert_array_equal(first, second)


def test_a_segmented_palette_cannot_grow_beyond_its_size(tmp_path: Path) -> None:
    bomb = np.array([0, 1, 7, *([1, 65535, 9] * 20_000)], np.uint16).tobytes()
    elements = {f"Segmented{colour}PaletteColorLookupTableData": bomb for colour in ("Red", "Green", "Blue")}
    elements |= {f"{colour}PaletteColorLookupTableDescriptor": [0, 0, 16] for colour in ("Red", "Green", "Blue")}
    path = make(tmp_path / "x", np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR", **elements)
    assert picture(path).shape == (2, 2)


def test_ybr_becomes_rgb_and_planes_become_pixels(tmp_path: Path) -> None:
    ybr = np.array([[[76, 85, 255], [150, 44, 21], [29, 255, 107]]], np.uint8)
    found = picture(make(tmp_path / "x", ybr, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(found, [[[254, 0, 0], [0, 255, 1], [0, 0, 254]]], atol=2)
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    path = make(tmp_path / "y", rgb, PlanarConfiguration=1, PixelData=planes)
    np.testing.assert_array_equal(picture(path), rgb)


def test_deep_colour_is_scaled_and_equal_channels_are_gray(tmp_path: Path) -> None:
    deep = np.array([[[0, 65535, 257], [257, 0, 65535]]], np.uint16)
    np.testing.assert_array_equal(picture(make(tmp_path / "x", deep)), deep // 257)
    gray = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)
    np.testing.assert_array_equal(picture(make(tmp_path / "y", gray)), gray[..., 0])


@pytest.mark.parametrize(("frame", "index"), [("first", 0), ("middle", 2), ("last", 4), (3, 3)])
def test_the_frame_is_the_one_asked_for(tmp_path: Path, frame: Frame, index: int) -> None:
    frames = np.arange(5 * 8, dtype=np.uint8).reshape(5, 2, 4)
    found = read_picture(make(tmp_path / "x", frames), frame)
    np.testing.assert_array_equal(found.pixels, frames[index])
    assert found.tags is not None
    assert found.tags.frames == 5


@pytest.mark.parametrize("frame", [5, -1])
def test_a_frame_that_is_not_there_is_refused(tmp_path: Path, frame: int) -> None:
    path = make(tmp_path / "x", np.zeros((5, 2, 4), np.uint8))
    with pytest.raises(DataError, match=rf"has 5 frames, the frame asked for is {frame}: .* from 0 to 4\.$"):
        read_picture(path, frame)


def test_enhanced_files_keep_a_window_per_frame(tmp_path: Path) -> None:
    frames = np.repeat(np.array([[[0, 100, 200, 200]]], np.uint16), 2, axis=0)
    windows = [
        item(FrameVOILUTSequence=Sequence([item(WindowCenter=centre, WindowWidth=101)])) for centre in (50.5, 150.5)
    ]
    shared = item(PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=0)]))
    path = make(
        tmp_path / "x",
        frames,
        PerFrameFunctionalGroupsSequence=Sequence(windows),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    assert picture(path, 0).tolist() == [[0, 255, 255, 255]]
    assert picture(path, 1).tolist() == [[0, 0, 255, 255]]


def test_one_bit_images_are_black_and_white_also_between_bytes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 2, (3, 5, 5)).astype(np.uint8)
    data = np.packbits(frames.ravel(), bitorder="little").tobytes()
    path = make(tmp_path / "x", frames, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=data)
    for index in range(3):
        np.testing.assert_array_equal(picture(path, index), frames[index] * 255)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_give_the_same_values(tmp_path: Path, syntax: str) -> None:
    stored = np.arange(300, 312, dtype=np.int16).reshape(3, 4)
    np.testing.assert_array_equal(
        picture(make(tmp_path / "x", stored, syntax=syntax)), picture(make(tmp_path / "y", stored))
    )


def test_a_file_without_preamble_and_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    whole = make(tmp_path / "x.png", stored).read_bytes()
    (tmp_path / "bare").write_bytes(whole[132:])
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), stored)
    np.testing.assert_array_equal(read_image(tmp_path / "bare"), stored)
    meta_end = 144 + int.from_bytes(whole[140:144], "little")
    (tmp_path / "naked").write_bytes(whole[meta_end:])
    np.testing.assert_array_equal(read_image(tmp_path / "naked"), stored)


def test_tags_are_read(tmp_path: Path) -> None:
    values = {"BurnedInAnnotation": "YES", "AccessionNumber": "A1", "PhotometricInterpretation": "MONOCHROME1"}
    tags = read_picture(make(tmp_path / "x", np.zeros((2, 2), np.uint8), **values)).tags
    assert tags is not None
    assert (tags.modality, tags.photometric, tags.burned_in, tags.patient_id) == (
        "MG",
        "MONOCHROME1",
        True,
        "Secret^Name",
    )
    assert (tags.accession, tags.sop_uid, tags.frames) == ("A1", "1.2.3", 1)


@pytest.mark.parametrize(
    ("elements", "why"),
    [
        ({"Rows": 60000, "Columns": 60000}, "claims 60000 x 60000 pixels, 3600 MB where 400 MB is the most"),
        ({"Rows": 0}, "has no pixels"),
        ({"Rows": 40}, "truncated"),
        ({"NumberOfFrames": 9}, "truncated"),
        ({"SamplesPerPixel": 4}, "has 4 samples per pixel"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation"),
        ({"PhotometricInterpretation": "RGB"}, "photometric interpretation"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "lookup table"),
        ({"BitsAllocated": 4, "BitsStored": 4}, "is damaged"),
        ({"RescaleSlope": float("inf")}, "RescaleSlope"),
    ],
)
def test_an_impossible_header_is_refused_without_its_content(
    tmp_path: Path, elements: dict[str, Any], why: str
) -> None:
    path = make(tmp_path / "x", np.zeros((4, 4), np.uint8), **elements)
    with pytest.raises(DataError, match=why) as caught:
        read_picture(path, "last")
    assert "Secret" not in str(caught.value)


def test_a_deflated_bomb_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    path = make(tmp_path / "x", np.zeros((2, 2), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    meta_end = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    bomb = BytesIO()
    for _ in range(450):
        bomb.write(packer.compress(bytes(1_000_000)))
    path.write_bytes(whole[:meta_end] + bomb.getvalue() + packer.flush())
    with pytest.raises(DataError, match="inflates to more than 400 MB"):
        read_picture(path)


def test_an_unknown_transfer_syntax_and_a_lying_one_are_refused(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.uint8)
    video = make(tmp_path / "x", values, syntax="1.2.840.10008.1.2.4.102", PixelData=encapsulate([b"1234"]))
    with pytest.raises(DataError, match=r"stored in a way that cannot be read \(MPEG-4"):
        read_picture(video)
    empty = make(tmp_path / "y", values, syntax=RLELossless, PixelData=encapsulate([b"1234"]))
    with pytest.raises(DataError, match=r"cannot be decompressed \(RLE Lossless\)"):
        read_picture(empty)
