"""`cdtl predict --study`: a study of the PACS in, and if the site allows it a report and pictures back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cdtl_core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from cdtl_core.inference.model_folder import ModelNote
    from cdtl_core.pacs.results import Finding
    from cdtl_core.pacs.settings import PacsConfig
    from cdtl_core.pacs.study import StudyImages
    from cdtl_core.results.answer import Answer

__all__ = ["Wanted", "predict_study"]


@dataclass(frozen=True)
class Wanted:
    """A study: its UID or accession number, the settings of the PACS, and whether results are stored there."""

    study: str
    accession: str
    pacs: Path
    store: bool


def predict_study(model: Path, note: "ModelNote", wanted: Wanted) -> "Answer":
    """Return what a model says about a study of the PACS, and store it there if that is wanted.

    Args:
        model: The model's folder.
        note: Its description.
        wanted: The study.

    Raises:
        ConfigError: The site does not allow it, or both a UID and an accession number are given.
        DataError: The PACS has no such study, or no image of it can be used.
    """
    if wanted.study and wanted.accession:
        raise ConfigError("--study and --accession both name a study: give one of them.")
    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.pacs.settings import load_pacs

    config = load_pacs(wanted.pacs)
    if wanted.store:
        from cdtl_core.pacs.results import check_storing

        check_storing(config)  # before anything is fetched
    from cdtl_core.config.modalities import MODALITIES
    from cdtl_core.pacs.query import asked_for
    from cdtl_core.pacs.study import read_study

    codes = MODALITIES[note.modality].dicom if note.modality in MODALITIES else ()
    with showing_progress(), read_study(config, asked_for(wanted.accession, wanted.study), codes) as study:
        for reason, count in sorted(study.left_out.items()):
            typer.echo(f"Left out: {count} images ({reason}).", err=True)
        answer = _answer(model, note, study)
        if wanted.store:
            _store(config, model, study, answer)
    return answer


def _answer(model: Path, note: "ModelNote", study: "StudyImages") -> "Answer":
    from cdtl_core.results.answer import answer

    if note.unit == "image":
        found = answer(model, [one.file for one in study.images])
        names = {str(one.file): one.name for one in study.images}
        table = replace(found.table, exams=tuple(names[str(file)] for file in found.table.files))
        return replace(found, table=table)
    files = study.files()
    return answer(model, files, exams=["the study"] * len(files))


def _store(config: "PacsConfig", model: Path, study: "StudyImages", answer: "Answer") -> None:
    from cdtl_core.pacs.results import ModelName, check_storing, picture_of, report_of, store

    report = report_of(_findings(study, answer), ModelName(answer.table.weights_sha256, answer.table.kind))
    pictures = [
        picture_of(pixels, one, place) for place, (pixels, one) in enumerate(_pictures(model, study, answer), 1)
    ]
    shown = f" and {len(pictures)} pictures with Grad-CAM" if pictures else ""
    typer.echo(
        f"Storing in {check_storing(config)}, under the study's own patient and study identifiers: a structured report "
        f"with the probabilities{shown}, marked as research use, not for diagnosis. Nothing goes anywhere else.",
        err=True,
    )
    store(config, [report, *pictures])
    typer.echo(f"Stored: {1 + len(pictures)} objects.", err=True)


def _findings(study: "StudyImages", answer: "Answer") -> "list[Finding]":
    from cdtl_core.pacs.results import Finding

    headers = {str(one.file): one.header for one in study.images}
    found = []
    for file, row in zip(answer.table.files, answer.rows, strict=True):
        own = (headers[str(file)],) if answer.unit == "image" else tuple(headers.values())
        probabilities = dict(zip(answer.table.labels, row.probabilities, strict=True))
        found.append(Finding(own, probabilities, row.called, row.like))
    return found


def _pictures(
    model: Path, study: "StudyImages", answer: "Answer"
) -> "list[tuple[npt.NDArray[np.uint8], list[Dataset]]]":
    """Return each picture with the headers of the image that it shows, or of all images of its exam."""
    from cdtl_core.report.predicted_pictures import exam_pictures, image_pictures

    if answer.unit == "image":
        headers = {str(one.file): one.header for one in study.images}
        files = list(answer.table.files)
        return [(pixels, [headers[str(files[place])]]) for place, pixels in image_pictures(model, files)]
    everything = [one.header for one in study.images]
    return [(pixels, everything) for pixels in exam_pictures(model, study.files())]
