"""The site's images at its desk: the check of the cohort, and what a model says about one more image."""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from starlette.datastructures import UploadFile
from starlette.responses import Response

from cdtl_core.config import Unit
from cdtl_core.config.folders import NOTE_FILE, SITE_FILE, SiteFolder
from cdtl_core.config.settings import load_site
from cdtl_core.desk.desk import Visit
from cdtl_core.errors import CdtlError, DataError
from cdtl_core.federation.contract import enrolled_contract
from cdtl_core.quality import CohortCheck
from cdtl_core.quality.check_source import check_site_images, images_of
from cdtl_core.report.charts.figure import Table
from cdtl_core.results.answer import Answer, answer
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.foreign import get_logger, read_json, visible
from cdtl_core.system.progress import listen
from cdtl_core.system.scratch import scratch_folder

__all__ = ["UPLOAD_BYTES", "Images"]


T = TypeVar("T")
_log = get_logger("cdtl.desk")


@dataclass(frozen=True)
class _Work(Generic[T]):
    """The state of the work: its result once it is done, or a sentence: what it does, or why it failed."""

    state: Literal["none", "running", "done", "failed"]
    text: str = ""
    result: T | None = None


class _Background(Generic[T]):
    """Runs a function in a thread, one at a time, and keeps its last result."""

    def __init__(self) -> None:
        self._work: _Work[T] = _Work("none")
        self._lock = threading.Lock()

    @property
    def work(self) -> _Work[T]:
        """The state now."""
        return self._work

    def start(self, compute: Callable[[], T]) -> bool:
        """Start the work; False if it runs already."""
        with self._lock:
            if self._work.state == "running":
                return False
            self._work = _Work("running")
        threading.Thread(target=self._run, args=(compute,), daemon=True).start()
        return True

    def _run(self, compute: Callable[[], T]) -> None:
        try:
            with listen(self._hear):
                self._work = _Work("done", result=compute())
        except CdtlError as error:
            self._work = _Work("failed", str(error))
        except OSError as error:
            self._work = _Work("failed", str(disk_fault(error)))
        except Exception:
            _log.exception("the work of a page failed")
            self._work = _Work("failed", "it ended by a fault of cdtl: the terminal of the desk says which.")

    def _hear(self, fields: Mapping[str, object]) -> None:
        (what, done), *_ = fields.items()
        if "of" in fields:
            self._work = _Work("running", f"{done} of {fields['of']} {what}")


UPLOAD_BYTES = 256 * 1024 * 1024
"""Most bytes of an image to predict: a stack of breast tomosynthesis has about 100 MB."""
_ENDING = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}$")
_TABLES = (".csv", ".tsv")
_MOST_PATH = 400


class Images:
    """The pages about images.

    Args:
        home: The site's folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._check: _Background[tuple[CohortCheck, float]] = _Background()

    def cohort(self, visit: Visit) -> Response:
        """Show the cohort's counts and findings, once they are checked."""
        own, work = load_site(self._home / SITE_FILE), self._check.work
        check, ended = work.result or (None, 0.0)
        return visit.page(
            "images.html",
            "Images",
            own=own,
            source="" if own.data.phantom else str(images_of(own)),
            unit=self._unit(),
            work=work,
            check=check,
            ended=time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)),
            tables=_tables(check) if check else [],
        )

    def check(self, visit: Visit) -> Response:
        """Start the check of the cohort."""
        own, unit, enrolled = load_site(self._home / SITE_FILE), self._unit(), enrolled_contract(self._home)
        labels = enrolled.labels if enrolled else ()
        if own.data.phantom is not None:
            return visit.go("/images", "These images are synthetic: there is nothing to check.")
        self._check.start(lambda: (check_site_images(own, unit, labels), time.time()))
        return visit.go("/images")

    def findings(self, visit: Visit) -> Response:
        """Show the page with the images concerned."""
        from cdtl_core.report.cohort_page import cohort_html

        own, work = load_site(self._home / SITE_FILE), self._check.work
        if work.result is None:
            return visit.go("/images", "Check the images first.")
        root = images_of(own).parent
        return visit.document(cohort_html(work.result[0], root=root, title=f"Cohort check: {own.site}"))

    def ask(self, visit: Visit, fault: str = "", found: Answer | None = None, shown: str = "") -> Response:
        """Show the form for an image, and what a model says about the last one."""
        models = [folder.name for folder in SiteFolder(self._home).models()]
        lesions = [name for name in models if read_json(self._home / "models" / name / NOTE_FILE).get("box")]
        return visit.page(
            "predict.html",
            "Predict",
            status=400 if fault else 200,
            models=models,
            lesions=lesions,
            fault=fault,
            found=found,
            table=_answer_table(found, shown) if found else None,
            typed=visit.fields,
            largest=UPLOAD_BYTES >> 20,
        )

    def predict(self, visit: Visit) -> Response:
        """Predict one image; it is removed before the answer is shown."""
        upload, name = visit.files.get("image"), visit.fields.get("model", "")
        folder = {one.name: one for one in SiteFolder(self._home).models()}.get(name)
        if folder is None:
            return self.ask(visit, "Choose one of the models of this site.")
        if upload is None:
            return self.ask(visit, "Choose an image.")
        boxes = [visit.fields["box"]] if visit.fields.get("box") else []
        try:
            with scratch_folder("image-") as scratch:
                found = answer(folder, [_stored(upload, scratch)], boxes)
        except CdtlError as error:
            return self.ask(visit, _without(str(error), upload))
        if found.faults:
            return self.ask(visit, _without(found.faults[0], upload))
        return self.ask(visit, found=found, shown=visible(upload.filename, _MOST_PATH))

    def _unit(self) -> Unit:
        enrolled = enrolled_contract(self._home)
        return enrolled.unit if enrolled else "image"


def _stored(upload: UploadFile, scratch: Path) -> Path:
    """Return the upload as a file, under a name of ours with its ending.

    Raises:
        DataError: It is a table, which would name other files of this machine.
    """
    ending = _ENDING.search(upload.filename or "")
    path = scratch / f"image{ending[0].lower() if ending else ''}"
    if path.suffix in _TABLES:
        raise DataError("a table is no image: choose one image, or use cdtl predict for many.")
    with open(path, "xb") as file:
        while part := upload.file.read(1 << 20):
            file.write(part)
    return path


def _without(sentence: str, upload: UploadFile) -> str:
    """Return a sentence about the stored file with the name that the person knows."""
    return re.sub(r"\S*/cdtl-image-\S*/image[.A-Za-z0-9]*", lambda _: visible(upload.filename, _MOST_PATH), sentence)


def _tables(check: CohortCheck) -> list[Table]:
    counts = check.counts
    labels = [(visible(one.label) or "(no label)", str(one.images), str(one.patients)) for one in counts.classes]
    tables = [Table("Labels", ("label", "images", "patients"), labels)]
    rows = [
        ("waived" if one.waived else one.severity, one.rule, visible(one.message, 2000), visible(one.advice, 2000))
        for one in check.findings
    ]
    if rows:
        tables.append(Table("Findings", ("severity", "rule", "finding", "what to do"), rows, numbers=9))
    return tables


def _answer_table(found: Answer, shown: str) -> Table:
    (row,) = found.rows
    rows = [
        (visible(label), f"{value:.3f}") for label, value in zip(found.table.labels, row.probabilities, strict=True)
    ]
    return Table(f"Probabilities ({found.table.kind}) for {shown}", ("label", "probability"), rows)
