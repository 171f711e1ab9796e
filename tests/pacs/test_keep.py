"""No identifier passes: planted in every attribute of the standard, in private and nested ones, and around the file."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from cdtl_core.data.decode.dicom import read_dicom
from cdtl_core.pacs.faults import PacsError, quiet_libraries
from cdtl_core.pacs.keep import Keeper, LeftOutError, kept_keywords
from tests.pacs.studies import encoded, image
from tests.tables import Tries

KEY = bytes(range(32))
PLANTED = "ZEBRA4711"
_NEEDED = {"SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelData"}
_NEEDED |= {"PixelRepresentation", "PhotometricInterpretation", "NumberOfFrames", "BurnedInAnnotation"}


def plant(one: Dataset, tag: int, vr: str) -> None:
    """Put the name into one attribute of the standard, however deep it is read."""
    if vr == "SQ":
        inner, deeper = Dataset(), Dataset()
        inner.PatientName = inner.CodeMeaning = inner.TextValue = inner.CodeValue = inner.LUTExplanation = PLANTED
        inner.LUTDescriptor, inner.LUTData = [5, 0, 16], PLANTED.encode() + b"\0"
        inner.add_new(0x00091010, "LO", PLANTED)
        deeper.PatientName = deeper.FrameLaterality = PLANTED
        inner.FrameVOILUTSequence, inner.FrameAnatomySequence = Sequence([deeper]), Sequence([deeper])
        one.add_new(tag, vr, Sequence([inner]))
    else:
        raw = (PLANTED * 8).encode()  # a length that fits numbers of every size
        one[tag] = RawDataElement(Tag(tag), vr[:2], len(raw), raw, 0, False, True)


def planted(attributes: list[tuple[int, str]]) -> bytes:
    """Return what is written of an image with the name in these attributes, or the sentence that refuses it."""
    one = image(0, 0, 0)
    for tag, vr in attributes:
        plant(one, tag, vr)
    arrived = pydicom.dcmread(BytesIO(encoded(one)))
    assert encoded(one).count(PLANTED.encode()) >= len(attributes)
    try:
        return Keeper(KEY).shown(arrived).content
    except (LeftOutError, PacsError) as refused:
        return str(refused).encode()


@pytest.mark.attack("no identifier of a PACS is written", "a name planted in every attribute, at any depth")
def test_a_name_in_any_attribute_is_not_written(tries: Tries) -> None:
    listed = [(tag, vr) for tag, (vr, *_) in DicomDictionary.items() if tag >> 16 >= 0x0008 and vr != "NONE"]
    free = [(tag, vr) for tag, vr in listed if keyword_for_tag(tag) and keyword_for_tag(tag) not in _NEEDED]
    with quiet_libraries():
        for place in range(0, len(free), 24):
            some = free[place : place + 24]
            written = planted(some)
            contents = [written, *([] if written.startswith(b"\0") else [planted([one]) for one in some])]
            assert all(PLANTED.encode() not in content.upper() for content in contents), some
            tries.add(len(some))
    assert tries.count > 4000


@pytest.mark.attack("no identifier of a PACS is written", "file meta, preamble, private groups, bytes after the pixels")
def test_a_name_around_the_attributes_is_not_written(tries: Tries) -> None:
    one = image(0, 0, 0)
    block = one.private_block(0x0009, PLANTED, create=True)
    block.add_new(0x01, "LO", PLANTED)
    for group in (0x6000, 0x6002):
        one.add_new((group, 0x3000), "OW", PLANTED.encode() + b"\0")
        one.add_new((group, 0x0022), "LO", PLANTED)
    one.add_new(0x7FE00010, "OB", one.PixelData + PLANTED.encode() + b"\0")
    one.add_new(0xFFFCFFFC, "OB", PLANTED.encode() + b"\0")
    one.file_meta.SourceApplicationEntityTitle = one.file_meta.ImplementationVersionName = PLANTED
    one.file_meta.PrivateInformation, one.file_meta.PrivateInformationCreatorUID = PLANTED.encode() + b"\0", "1.2.3"
    written = encoded(one)
    dirty = PLANTED.encode().ljust(128, b"\0") + written[128:]
    assert dirty.count(PLANTED.encode()) > 8
    tries.add(dirty.count(PLANTED.encode()))
    with quiet_libraries():
        content = Keeper(KEY).shown(pydicom.dcmread(BytesIO(dirty))).content
    assert PLANTED.encode() not in content


def jpeg(quality: int = 90) -> bytes:
    target = BytesIO()
    Image.fromarray(np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)).save(
        target, "JPEG", quality=quality, comment=PLANTED.encode(), exif=b"Exif\0\0" + PLANTED.encode()
    )
    return target.getvalue()


@pytest.mark.parametrize("form", ["jpeg", "jpeg2000"])
def test_text_inside_a_compressed_frame_is_not_written_and_the_picture_stays(form: str, tmp_path: Path) -> None:
    one = image(0, 0, 0)
    if form == "jpeg":
        frame, one.file_meta.TransferSyntaxUID = jpeg() + PLANTED.encode(), uid.JPEGBaseline8Bit
    else:
        target = BytesIO()
        Image.fromarray(one.pixel_array).save(target, "JPEG2000", irreversible=False, no_jp2=True)
        whole, comment = target.getvalue(), b"\0\1" + PLANTED.encode()
        at = whole.index(b"\xff\x90")
        segment = b"\xff\x64" + (len(comment) + 2).to_bytes(2, "big") + comment
        frame = whole[:at] + segment + whole[at:] + PLANTED.encode() + b"\xff\xd9"
        one.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    one.add_new(0x7FE00010, "OB", encapsulate([frame]))
    one["PixelData"].is_undefined_length = True
    (tmp_path / "before.dcm").write_bytes(encoded(one))
    assert PLANTED.encode() in (tmp_path / "before.dcm").read_bytes()
    (tmp_path / "after.dcm").write_bytes(Keeper(KEY).shown(pydicom.dcmread(tmp_path / "before.dcm")).content)
    assert PLANTED.encode() not in (tmp_path / "after.dcm").read_bytes()
    before, after = read_dicom(tmp_path / "before.dcm"), read_dicom(tmp_path / "after.dcm")
    assert np.array_equal(before.pixels, after.pixels)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_that_hold_no_value_are_cleared(signed: bool) -> None:
    one = image(0, 0, 0, modality="CT")
    one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, int(signed)
    values = np.arange(one.Rows * one.Columns) % 4096 - (2048 if signed else 0)
    one.add_new(0x7FE00010, "OW", (values.astype("<i2").view("<u2") & 0x0FFF | 0x5000).astype("<u2").tobytes())
    kept = pydicom.dcmread(BytesIO(Keeper(KEY).shown(one).content))
    assert np.array_equal(np.frombuffer(kept.PixelData, "<i2"), values)


def test_what_the_pipeline_reads_is_kept_and_identifiers_are_hashes_that_agree(tmp_path: Path) -> None:
    keeper, other = Keeper(KEY, ("LOGIQ 7",)), Keeper(b"x" * 32)
    one, two = image(0, 0, 0, modality="CT"), image(1, 0, 0)
    first, second = (pydicom.dcmread(BytesIO(keeper.shown(each).content)) for each in (one, two))
    assert first.PatientID == second.PatientID
    assert first.StudyInstanceUID != second.StudyInstanceUID
    assert keeper.shown(one).patient != other.shown(one).patient
    assert len(first.PatientID) == 16
    assert uid.UID(first.SOPInstanceUID).is_valid
    assert first.SOPInstanceUID.startswith("2.25.")
    assert (first.RescaleIntercept, list(first.ImagePositionPatient), first.InstanceNumber) == (-1024, [0, 0, 0], 1)
    assert (first.Manufacturer, first.ManufacturerModelName) == ("GE", "LOGIQ 7")
    assert Keeper(KEY).shown(one).device.startswith("GE model-")
    for name, each in (("before", one), ("after", first)):
        each.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    pictures = [read_dicom(tmp_path / f"{name}.dcm") for name in ("before", "after")]
    assert np.array_equal(pictures[0].pixels, pictures[1].pixels)
    assert pictures[1].tags.laterality == "L"


def coloured(one: Dataset) -> None:
    one.PhotometricInterpretation = "PALETTE COLOR"
    for colour, factor in (("Red", 1), ("Green", 2), ("Blue", 3)):
        one.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        entries = (np.arange(256) * 77 * factor % 65536).astype("<u2")
        one.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.tobytes())


def with_window_table(one: Dataset) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 12])
    table.add_new("LUTData", "OW", (np.sqrt(np.arange(256) / 255) * 4095).astype("<u2").tobytes())
    table.LUTExplanation = PLANTED
    one.VOILUTSequence = Sequence([table])


def in_frames(one: Dataset) -> None:
    window, frame, shared = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth, window.WindowCenterWidthExplanation = 60, 90, PLANTED
    frame.FrameVOILUTSequence, shared.FrameVOILUTSequence = Sequence([window]), Sequence([Dataset()])
    one.PerFrameFunctionalGroupsSequence, one.SharedFunctionalGroupsSequence = Sequence([frame]), Sequence([shared])


@pytest.mark.parametrize("change", [coloured, with_window_table, in_frames])
def test_tables_and_frames_keep_the_picture_and_no_text(change: Callable[[Dataset], None], tmp_path: Path) -> None:
    one = image(0, 0, 0)
    plain = encoded(one)
    change(one)
    for name, content in (("plain", plain), ("before", encoded(one)), ("after", Keeper(KEY).shown(one).content)):
        (tmp_path / name).write_bytes(content)
    pictures = [read_dicom(tmp_path / name).pixels for name in ("plain", "before", "after")]
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[1], pictures[2])
    assert PLANTED.encode() not in (tmp_path / "after").read_bytes()


def test_what_cannot_be_used_is_left_out_or_refused_with_a_reason() -> None:
    burned, report, short = image(0, 0, 0), image(0, 0, 0), image(0, 0, 0)
    burned.BurnedInAnnotation = "YES"
    report.SOPClassUID = uid.BasicTextSRStorage
    del report.PixelData
    short.add_new(0x7FE00010, "OB", short.PixelData[:-10])
    for one in (burned, report):
        with pytest.raises(LeftOutError):
            Keeper(KEY).shown(one)
    with pytest.raises(PacsError, match="cut short"):
        Keeper(KEY).shown(short)


def test_the_guide_lists_the_attributes_that_are_kept() -> None:
    page = Path("docs/guides/pacs.md").read_text(encoding="utf-8")
    listed = page.partition("## Attributes that are kept")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z][A-Za-z]+)`", listed)) == set(kept_keywords())
    assert all(dictionary_VR(name) for name in kept_keywords())


def test_a_form_in_which_text_could_pass_is_left_out_and_a_frame_of_another_form_is_damaged() -> None:
    film, other = image(0, 0, 0), image(0, 0, 0)
    film.file_meta.TransferSyntaxUID, other.file_meta.TransferSyntaxUID = uid.MPEG4HP41, uid.JPEGBaseline8Bit
    for one, fault in ((film, LeftOutError), (other, PacsError)):
        one.add_new(0x7FE00010, "OB", encapsulate([PLANTED.encode() * 100]))
        one["PixelData"].is_undefined_length = True
        with pytest.raises(fault):
            Keeper(KEY).shown(pydicom.dcmread(BytesIO(encoded(one))))
