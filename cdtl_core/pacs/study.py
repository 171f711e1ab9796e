"""One study of a PACS for a prediction: its images without identifiers in a scratch folder, real headers in memory."""

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from cdtl_core.errors import ConfigError, DataError
from cdtl_core.pacs.arrival import series_of, wanted_series
from cdtl_core.pacs.faults import PacsError, quiet_libraries
from cdtl_core.pacs.keep import Keeper, LeftOutError
from cdtl_core.pacs.peer import Peer, open_peers
from cdtl_core.pacs.query import Asked, Query, Series, Study
from cdtl_core.pacs.settings import PacsConfig
from cdtl_core.system.durable import unwritable
from cdtl_core.system.scratch import scratch_folder

__all__ = ["ReadImage", "StudyImages", "read_study"]

_HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName"),
    *("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "Modality"),
    *("ReferringPhysicianName", "SpecificCharacterSet", "InstanceNumber", "NumberOfFrames"),
)
"""What a result repeats of the images that it is about."""


@dataclass(frozen=True)
class ReadImage:
    """An image of a study.

    Attributes:
        file: Without identifiers, in the scratch folder.
        name: Its place in the study, for a person.
        header: The real identifiers; in memory only.
    """

    file: Path
    name: str
    header: Dataset = field(repr=False)


@dataclass(frozen=True)
class StudyImages:
    """The images of a study, by series and place.

    Attributes:
        series: The images of each series.
        volumes: Series of slices, by their place in `series`.
        left_out: Reason to number of images that were left out.
    """

    series: tuple[tuple[ReadImage, ...], ...]
    volumes: frozenset[int]
    left_out: Counter[str]

    @property
    def images(self) -> list[ReadImage]:
        """All images."""
        return [image for one in self.series for image in one]

    def files(self) -> list[Path]:
        """Return the files of an exam, with the folder in place of a series of slices."""
        found: list[Path] = []
        for place, one in enumerate(self.series):
            found += [one[0].file.parent] if place in self.volumes else [image.file for image in one]
        return found


@contextmanager
def read_study(config: PacsConfig, asked: Asked, modality: tuple[str, ...]) -> Iterator[StudyImages]:
    """Fetch one study for the time of the block.

    Args:
        config: The PACS; it must allow predictions.
        asked: The study's UID or accession number.
        modality: DICOM codes of the images to fetch; empty: any.

    Raises:
        ConfigError: The site does not allow it.
        DataError: The PACS has no such study, or several, or none of its images can be used.
        PacsError: The PACS cannot send it.
    """
    if not config.predict:
        raise ConfigError("this site does not allow predictions from the PACS: its pacs.toml must say predict = true.")
    with scratch_folder("study") as folder, quiet_libraries(), open_peers(config) as peers:
        peer = peers()
        studies = peer.studies(Query(), asked)
        if len(studies) != 1:
            found = "no such study" if not studies else f"{len(studies)} studies with this accession number"
            raise DataError(f"the PACS has {found}: give the UID of one with --study.")
        query = Query(modality=modality)
        series = wanted_series(peer, query, studies[0])
        if not series:
            raise DataError(f"the study has no series of {' or '.join(modality) or 'images'}: choose another one.")
        left_out: Counter[str] = Counter()
        reader = _Reader(Keeper(secrets.token_bytes(32), config.devices), folder, left_out)
        read = [reader.read(peer, studies[0], one, number) for number, one in enumerate(series, 1)]
        usable = [one for one in read if one]
        if not usable:
            reasons = ", ".join(f"{count} of them: {reason}" for reason, count in sorted(left_out.items()))
            raise DataError(f"no image of the study can be used ({reasons or 'it has none'}): choose another one.")
        volumes = frozenset(place for place, one in enumerate(usable) if one[0].file.parent in reader.volumes)
        yield StudyImages(tuple(usable), volumes, left_out)


class _Reader:
    """Writes images without identifiers and keeps their real headers in memory.

    Args:
        keeper: With a key of this moment.
        folder: Where images are written.
        left_out: Counts what is left out.
    """

    def __init__(self, keeper: Keeper, folder: Path, left_out: Counter[str]) -> None:
        self._keeper, self._folder, self._left_out = keeper, folder, left_out
        self.volumes: set[Path] = set()
        self._patients: set[str] = set()

    def read(self, peer: Peer, study: Study, series: Series, number: int) -> tuple[ReadImage, ...]:
        """Fetch a series; `number` is its place in the study.

        Raises:
            PacsError: Images are missing, or of another study, series or patient: a result could be stored in the
                wrong place.
        """
        folder = self._folder / f"series{number}"
        folder.mkdir()
        found: list[tuple[int, Path, Dataset, bool]] = []
        arrived: set[str] = set()

        def take(dataset: Dataset) -> None:
            series_of(dataset, study, series)
            name = str(dataset.get("SOPInstanceUID", len(arrived)))
            if name in arrived:
                return
            arrived.add(name)
            try:
                shown = self._keeper.shown(dataset)
            except LeftOutError as reason:
                self._left_out[str(reason)] += 1
                return
            path = folder / f"{shown.name}.dcm"
            try:
                path.write_bytes(shown.content)
            except OSError as error:
                raise unwritable(path, error) from None
            self._patients.add(shown.patient)
            found.append((shown.number, path, _header(dataset), shown.is_slice))

        peer.fetch(study, series, take)
        if len(arrived) < (series.images or 0):
            raise PacsError(f"only {len(arrived)} of {series.images} images of a series arrived: try again.")
        if len(self._patients) > 1:
            raise PacsError("the study has images of two patients: ask the administrator of the PACS.")
        found.sort(key=lambda one: one[:2])
        if len(found) > 1 and all(is_slice for *_, is_slice in found):
            self.volumes.add(folder)
        names = [f"series {number} image {place}" for place in range(1, len(found) + 1)]
        return tuple(ReadImage(path, name, one) for (_, path, one, _), name in zip(found, names, strict=True))


def _header(dataset: Dataset) -> Dataset:
    kept = Dataset()
    for keyword in _HEADER:
        if keyword in dataset:
            kept[keyword] = dataset[keyword]
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
        kept.setdefault(keyword, "")
    for keyword in ("StudyTime", "ReferringPhysicianName"):
        kept.setdefault(keyword, "")
    return kept
