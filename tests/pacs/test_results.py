"""`cdtl predict --study`: reads from the PACS, and writes a report and pictures back only where the site allows it."""

import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import uid

from cdtl_core.config import SimulationConfig
from tests.conftest import Played
from tests.pacs.conftest import Cdtl
from tests.pacs.peers import SmallPacs
from tests.pacs.studies import image, known
from tests.tables import Tries

SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16, "seed": 1, "images": 3}}},
    {"site": "como", "modality": "ultrasound", "data": {"phantom": {"patients": 16, "seed": 3, "images": 3}}},
]


@pytest.fixture
def model(played: Played, tiny: Callable[..., SimulationConfig]) -> Path:
    """A model of images."""
    config = tiny(methods=("fedbn",), sites=[{**one, "data": {"phantom": {"patients": 16}}} for one in SITES])
    return played(config).out / "sites" / "alba"


@pytest.fixture
def exam_model(played: Played, tiny: Callable[..., SimulationConfig]) -> Path:
    """A model of exams."""
    return played(tiny(methods=("fedbn",), sites=SITES, task={"unit": "exam"})).out / "sites" / "alba"


def allow(settings: Path, *, predict: bool = True, store: bool = False) -> Path:
    text = settings.read_text(encoding="utf-8")
    words = f"predict = {str(predict).lower()}\nstore = {str(store).lower()}\n"
    settings.write_text(words + text, encoding="utf-8")
    return settings


def test_without_permission_nothing_is_read_and_nothing_is_stored(
    web: Path, pacs: SmallPacs, model: Path, cdtl: Cdtl
) -> None:
    command = ("predict", model, "--study", known(0).uid, "--pacs", web)
    code, told = cdtl(*command)
    assert (code, "must say predict = true" in told) == (3, True), told
    allow(web)
    code, told = cdtl(*command, "--store")
    assert (code, "must say store = true" in told) == (3, True), told
    assert (pacs.asked, pacs.stored) == ([], [])


@pytest.mark.parametrize("by", ["study", "accession"])
def test_a_study_is_predicted_under_names_that_say_nothing(by: str, settings: Path, model: Path, cdtl: Cdtl) -> None:
    one = known(2)
    given = {"study": one.uid, "accession": one.accession}[by]
    code, told = cdtl("predict", model, f"--{by}", given, "--pacs", allow(settings), "--csv")
    assert (code, told.count("\nseries 1 image"), told.count("\nseries 2 image")) == (0, 2, 2), told
    assert not any(secret in told for secret in (one.uid, one.accession, one.patient, "ROE"))


def test_a_report_and_pictures_are_stored_in_the_study_and_marked(
    web: Path, pacs: SmallPacs, model: Path, cdtl: Cdtl
) -> None:
    allow(web, store=True)
    code, told = cdtl("predict", model, "--study", known(0).uid, "--pacs", web, "--store")
    assert code == 0, told
    assert "under the study's own patient and study identifiers" in told
    report, *pictures = (pydicom.dcmread(BytesIO(one)) for one in pacs.stored)
    assert (report.SOPClassUID, report.PreliminaryFlag, report.VerificationFlag) == (
        uid.ComprehensiveSRStorage, "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    for one in (report, *pictures):
        assert (one.StudyInstanceUID, one.PatientID) == (known(0).uid, known(0).patient)
        assert one.SeriesDescription == "RESEARCH USE, NOT FOR DIAGNOSIS"
    text = str(report)
    assert "Probability of malignant" in text
    assert "research use, not for diagnosis" in text
    own = {one.SOPInstanceUID for one in pacs.images if one.StudyInstanceUID == known(0).uid}
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for series in evidence for item in series.ReferencedSOPSequence} == own
    assert {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in pictures} == own
    assert {one.SOPClassUID for one in pictures} == {uid.SecondaryCaptureImageStorage}
    assert pictures[0].pixel_array.any()


def test_an_exam_gets_one_finding_about_all_its_images(
    web: Path, pacs: SmallPacs, exam_model: Path, cdtl: Cdtl
) -> None:
    allow(web, store=True)
    code, told = cdtl("predict", exam_model, "--accession", known(1).accession, "--pacs", web, "--store", "--csv")
    assert (code, told.count("the study,4,")) == (0, 1), told
    report, *pictures = (pydicom.dcmread(BytesIO(one)) for one in pacs.stored)
    assert str(report).count("Probability of malignant") == 1
    assert 0 < len(pictures) <= 4


@pytest.mark.attack("identifiers of a predicted study are never written", "every file that is written meanwhile")
def test_no_identifier_is_written_while_a_study_is_predicted_and_stored(
    web: Path, model: Path, cdtl: Cdtl, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = Path.write_bytes

    def noted(path: Path, content: bytes) -> int:
        written.append(content + str(path).encode())
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", noted)
    monkeypatch.setattr(tempfile, "tempdir", None)
    code, told = cdtl("predict", model, "--study", known(0).uid, "--pacs", allow(web, store=True), "--store")
    assert code == 0, told
    assert len(written) >= 4
    one = known(0)
    for secret in (one.uid, one.accession, one.patient, "ROE", "DOE"):
        tries.add()
        assert secret not in told
        assert not any(secret.encode() in content for content in written)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--study", "1.2.3"), "the PACS has no such study"),
        (("--study", "not-a-uid"), "--study is no UID"),
        (("--accession", "ACC*"), "with which a PACS would return other studies"),
        (("--study", "1.2.3", "--accession", "A"), "both name a study"),
        (("image.png", "--study", "1.2.3"), "leave one of them out"),
        (("--store",), "there is nothing to predict"),
    ],
)
def test_wrong_words_get_a_sentence(words: tuple[str, ...], told: str, web: Path, model: Path, cdtl: Cdtl) -> None:
    code, said = cdtl("predict", model, *words, "--pacs", allow(web))
    assert code in {3, 4}
    assert told in said


@pytest.mark.attack("a result is about the study that was asked for", "images of another study, of two patients; twice")
def test_images_that_were_not_asked_for_are_not_predicted_and_nothing_is_stored(
    web: Path, pacs: SmallPacs, model: Path, cdtl: Cdtl, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", model, "--study", known(0).uid, "--pacs", allow(web, store=True), "--store")
    select, images = pacs.select, list(pacs.images)
    stranger, twin = image(0, 0, 1, size=48), images[0]
    stranger.PatientID = known(5).patient
    for second, sentence in ((stranger, "images of two patients"), (twin, "only 1 of 2 images")):
        pacs.images = [images[0], second, *images[2:]]
        code, told = cdtl(*command)
        assert (code, sentence in told) == (4, True), told
        tries.add()
    pacs.images = images
    foreign = image(3, 0, 0, size=48)
    monkeypatch.setattr(pacs, "select", lambda keys: select(keys) + [foreign] * ("SeriesInstanceUID" in keys))
    code, told = cdtl(*command)
    assert (code, "an image that was not asked for" in told, pacs.stored) == (4, True, []), told
    tries.add()
