"""Brings one study to the disk: each series in a draft folder, moved into place when all its images are there."""

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cdtl_core.pacs.faults import PacsAwayError, PacsError
from cdtl_core.pacs.journal import Arrived, File, Journal, StudyRecord
from cdtl_core.pacs.keep import Keeper, LeftOutError
from cdtl_core.pacs.peer import Peer
from cdtl_core.pacs.query import Query, Series, Study
from cdtl_core.system.durable import publish_folder, unwritable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Arrival", "fetch_study", "series_of", "wanted_series"]

_NO_IMAGES = frozenset(
    ("AU", "DOC", "ECG", "EPS", "FID", "HD", "KO", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN", "RTRECORD", "RTSTRUCT")
) | frozenset(("RWV", "SEG", "SMR", "SR", "STAIN"))
"""Modalities of series that hold no images; they are not fetched."""


@dataclass
class _Draft:
    """A series that is arriving: its files, what is left out, and keyed hashes of its images: one can come twice."""

    folder: Path
    files: dict[str, File] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    is_volume: bool = True
    device: str = ""
    arrived: set[str] = field(default_factory=set)

    def finished(self, told: int | None) -> Arrived:
        """Return the series as the journal has it; `told` as in `Arrived`."""
        files = tuple(self.files[name] for name in sorted(self.files))
        return Arrived(files, told, self.is_volume and len(files) > 1, self.device, dict(self.left_out))


@dataclass(frozen=True)
class Arrival:
    """Where studies are written.

    Attributes:
        journal: What has arrived before.
        keeper: What is kept of an image.
        drafts: Folder of studies that are arriving.
    """

    journal: Journal
    keeper: Keeper
    drafts: Path


def wanted_series(peer: Peer, query: Query, study: Study) -> list[Series]:
    """Return the series of a study that were asked for and can hold images."""
    return [one for one in peer.series(study) if query.wants_series(one) and one.modality not in _NO_IMAGES]


def fetch_study(peer: Peer, query: Query, study: Study, arrival: Arrival, record: StudyRecord) -> bool:
    """Fetch what has not arrived of a study; return whether there was anything.

    A study of which every series is wanted is fetched by one request, otherwise each series by one.

    Args:
        peer: The PACS.
        query: Which series were asked for.
        study: The study.
        arrival: Where it is written.
        record: What has arrived of it before; the new series are added.

    Raises:
        PacsError: The PACS cannot send it.
        CheckpointError: The disk is full or read-only.
    """
    if study.images is not None and query.wants_all_series(study) and not _NO_IMAGES & {*study.modalities}:
        if record.is_complete and study.images == sum(one.count for one in record.series.values()):
            return False
        _StudyDraft(study, arrival, record).fetch(peer, None, study.images)
        return True
    names = {arrival.keeper.name(one.uid): one for one in wanted_series(peer, query, study)}
    missing = [one for name, one in names.items() if not _is_here(record.series.get(name), one)]
    for one in missing:
        _StudyDraft(study, arrival, record).fetch(peer, one, one.images)
    return bool(missing)


def _is_here(before: Arrived | None, series: Series) -> bool:
    return before is not None and (series.images is None or series.images == before.count)


def series_of(dataset: "Dataset", study: Study, series: Series | None) -> str:
    """Return the UID of an image's series.

    Args:
        dataset: As it arrived.
        study: The study that was asked for.
        series: The series that was asked for; None: any of the study.

    Raises:
        PacsError: The image is of another study or series.
    """
    own = str(dataset.get("SeriesInstanceUID", "")).strip(" \0")
    if dataset.get("StudyInstanceUID") != study.uid or own != (series.uid if series else own):
        raise PacsError("the PACS sent an image that was not asked for")
    return own


class _StudyDraft:
    """Images of one request, in draft folders.

    Args:
        study: Their study.
        arrival: Where it is written.
        record: Gets the series that are complete.
    """

    def __init__(self, study: Study, arrival: Arrival, record: StudyRecord) -> None:
        self._study, self._arrival, self._record = study, arrival, record
        self._keeper = arrival.keeper
        self._folder = arrival.drafts / self._keeper.name(study.uid)
        self._series: dict[str, _Draft] = {}
        self._patients = {record.patient} - {""}

    def fetch(self, peer: Peer, series: Series | None, told: int | None) -> None:
        """Fetch a series, or all of the study, and move it into place.

        Args:
            peer: The PACS.
            series: The series; None: all.
            told: How many images the PACS says there are; None: it does not say.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        if series is not None:
            self._draft(self._keeper.name(series.uid))
        peer.fetch(self._study, series, lambda dataset: self._take(dataset, series))
        arrived = sum(len(one.arrived) for one in self._series.values())
        if told is not None and arrived < told:
            raise PacsAwayError(f"only {arrived} of {told} images arrived")
        if len(self._patients) > 1:
            raise PacsError("it has images of two patients")
        for name, draft in self._series.items():
            _publish(draft.folder, self._arrival.journal.folder(name), keep=bool(draft.files))
            self._record.series[name] = draft.finished(told if series is not None else None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _draft(self, name: str) -> _Draft:
        if name not in self._series:
            draft = self._series[name] = _Draft(self._folder / name)
            try:
                draft.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(draft.folder, error) from None
        return self._series[name]

    def _take(self, dataset: "Dataset", series: Series | None) -> None:
        """Write one image.

        Args:
            dataset: As it arrived.
            series: The series that was asked for; None: any of the study.

        Raises:
            PacsError: It is damaged, or of another study or series.
            CheckpointError: The disk is full or read-only.
        """
        draft = self._draft(self._keeper.name(series_of(dataset, self._study, series)))
        sop = str(dataset.get("SOPInstanceUID", ""))
        name = self._keeper.name(sop) if sop else f"without UID {len(draft.arrived)}"
        if name in draft.arrived:
            return
        draft.arrived.add(name)
        try:
            shown = self._keeper.shown(dataset)
        except LeftOutError as reason:
            draft.left_out[str(reason)] += 1
            return
        path = draft.folder / f"{shown.name}.dcm"
        try:
            path.write_bytes(shown.content)
        except OSError as error:
            raise unwritable(path, error) from None
        digest = hashlib.sha256(shown.content).hexdigest()
        draft.files[path.name] = File(path.name, shown.number, len(shown.content), digest)
        draft.is_volume, draft.device = draft.is_volume and shown.is_slice, draft.device or shown.device
        self._patients.add(shown.patient)
        self._record.patient = self._record.patient or shown.patient
        self._record.accession = self._record.accession or shown.accession


def _publish(folder: Path, target: Path, *, keep: bool) -> None:
    """Move a finished series into place, durably; a series without a usable image has no folder."""
    if not keep:
        shutil.rmtree(folder)
        return
    try:
        target.parent.mkdir(exist_ok=True)
        publish_folder(folder, target)
    except OSError as error:
        raise unwritable(target, error) from None
