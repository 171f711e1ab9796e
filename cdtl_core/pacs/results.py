"""Results as DICOM objects of the study that they are about: a structured report (TID 1500) and pictures.

Both are marked as research use, not for diagnosis. They hold the study's real identifiers and exist in memory only,
until they are stored in the PACS.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from cdtl_core import __version__
from cdtl_core.errors import ConfigError
from cdtl_core.pacs.dicomweb import dicomweb_peers
from cdtl_core.pacs.faults import need, quiet_libraries
from cdtl_core.pacs.settings import PacsConfig

try:
    import highdicom
    from highdicom import sr
    from highdicom.sr.coding import CodedConcept
except ImportError as error:
    raise need("highdicom") from error

__all__ = ["MARK", "Finding", "ModelName", "check_storing", "picture_of", "report_of", "store"]

MARK = "RESEARCH USE, NOT FOR DIAGNOSIS"
_SCHEME, _SERIES = "99CDTL", 9700
_BAND = 22  # pixels of the line under a picture


@dataclass(frozen=True)
class Finding:
    """What a model says about one or several images.

    Attributes:
        images: Headers of the images, with their real identifiers.
        probabilities: Label to probability.
        called: The label called; empty: none.
        is_like: Whether the images are like the training images; None: unknown.
    """

    images: tuple[Dataset, ...]
    probabilities: dict[str, float]
    called: str
    is_like: bool | None


@dataclass(frozen=True)
class ModelName:
    """The model: hash of its weights, and kind of its probabilities (calibrated or raw)."""

    weights_sha256: str
    kind: str


def report_of(findings: Sequence[Finding], model: ModelName) -> Dataset:
    """Return a structured report of TID 1500, preliminary and not verified.

    Args:
        findings: All of one study.
        model: What computed them.
    """
    evidence = [image for one in findings for image in one.images]
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(), name="cdtl", manufacturer_name="cdtl", model_name=f"cdtl {__version__}"
    )
    observer = sr.ObserverContext(CodedConcept("121007", "DCM", "Device"), device)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("363679005", "SCT", "Imaging"),
        imaging_measurements=[_group(one, number, model) for number, one in enumerate(findings, 1)],
    )
    report = sr.ComprehensiveSR(
        evidence=evidence,
        content=content,
        series_instance_uid=generate_uid(),
        series_number=_SERIES,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="cdtl",
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=MARK,
    )
    found: Dataset = report
    return found


def _group(finding: Finding, number: int, model: ModelName) -> "sr.MeasurementsAndQualitativeEvaluations":
    method = _code(f"{model.kind} probability of a network")
    measured = [
        sr.Measurement(
            name=_code(f"Probability of {label}"),
            value=round(value, 6),
            unit=CodedConcept("1", "UCUM", "no units"),
        )
        for label, value in finding.probabilities.items()
    ]
    like = {True: "yes", False: "no: do not rely on the probabilities", None: "not known"}[finding.is_like]
    told = [("Intended use", MARK.lower()), ("Images are like the training images", like)]
    if finding.called:
        told.append(("Label called", finding.called))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=f"cdtl {number}"),
        method=method,
        algorithm_id=sr.AlgorithmIdentification(
            name="cdtl", version=__version__, parameters=[f"SHA-256 of the weights: {model.weights_sha256}"]
        ),
        measurements=measured,
        qualitative_evaluations=[sr.QualitativeEvaluation(_code(name), _code(value)) for name, value in told],
        source_images=[
            sr.SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID) for one in finding.images
        ],
    )


def _code(meaning: str) -> CodedConcept:
    """Return a code of our own scheme; each meaning has its own code."""
    return CodedConcept(hashlib.sha256(meaning.encode()).hexdigest()[:12], _SCHEME, meaning[:64])


def picture_of(pixels: npt.NDArray[np.uint8], sources: Sequence[Dataset], number: int) -> Dataset:
    """Return a secondary-capture picture of a study, with the mark under it.

    Args:
        pixels: H W 3.
        sources: Headers of the image that it shows, or of all images of its exam, with their real identifiers.
        number: Its place among the pictures.
    """
    source = sources[0]
    whole = Image.new("RGB", (pixels.shape[1], pixels.shape[0] + _BAND))
    whole.paste(Image.fromarray(pixels))
    ImageDraw.Draw(whole).text((4, pixels.shape[0] + 5), f"{MARK} - cdtl {__version__}", fill=(255, 255, 255))
    picture = highdicom.sc.SCImage(
        pixel_array=np.asarray(whole),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=generate_uid(),
        series_number=_SERIES + number,
        sop_instance_uid=generate_uid(),
        instance_number=number,
        manufacturer="cdtl",
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate or None,
        patient_sex=source.PatientSex or None,
        accession_number=source.AccessionNumber or None,
        study_id=source.StudyID or None,
        study_date=source.StudyDate or None,
        study_time=source.StudyTime or None,
        referring_physician_name=source.ReferringPhysicianName or None,
        series_description=MARK,
    )
    picture.PatientOrientation = picture.Laterality = None  # those of the source image are not known here
    picture.BurnedInAnnotation = "NO"
    picture.DerivationDescription = "Image and Grad-CAM of a network. Research use, not for diagnosis."
    picture.SourceImageSequence = [_reference(one) for one in sources]
    found: Dataset = picture
    return found


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return reference


def check_storing(config: PacsConfig) -> str:
    """Return the address to which results are stored.

    Raises:
        ConfigError: The site does not allow it.
    """
    if not config.store or config.dicomweb is None:
        raise ConfigError("this site does not allow results in the PACS: its pacs.toml must say store = true.")
    return config.dicomweb.url


def store(config: PacsConfig, objects: Sequence[Dataset]) -> None:
    """Store results in the PACS, by STOW-RS.

    Raises:
        ConfigError: The site does not allow it.
        PacsError: The PACS refuses.
    """
    check_storing(config)
    with quiet_libraries(), dicomweb_peers(config) as make:
        peer = make()
        try:
            peer.store(list(objects), str(objects[0].StudyInstanceUID))
        finally:
            peer.close()
