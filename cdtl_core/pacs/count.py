"""Counts what a pull would fetch, without fetching anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.pacs.arrival import wanted_series
from cdtl_core.pacs.faults import quiet_libraries
from cdtl_core.pacs.journal import Journal
from cdtl_core.pacs.keep import Keeper
from cdtl_core.pacs.peer import open_peers
from cdtl_core.pacs.query import Asked, Query, Study
from cdtl_core.pacs.secret import site_key
from cdtl_core.pacs.settings import PacsConfig
from cdtl_core.system.progress import report

__all__ = ["Counted", "count_studies"]


@dataclass(frozen=True)
class Counted:
    """What a pull would fetch: studies, series, images; `images` is None if the PACS tells no number.

    Attributes:
        studies: Number of studies.
        series: Number of series with images.
        images: Number of images.
        here: Studies that have arrived before.
        missing: Accession numbers for which the PACS has no study.
        bytes_of_image: Mean size of an image that has arrived before; None: none has.
    """

    studies: int
    series: int
    images: int | None
    here: int
    missing: int
    bytes_of_image: float | None


def count_studies(config: PacsConfig, out: Path, query: Query, asked: Sequence[Asked]) -> Counted:
    """Count what `pull` would fetch; nothing is fetched or written. Arguments and errors as in `pull`."""
    with quiet_libraries(), open_peers(config) as peers:
        peer, found = peers(), list[Study]()
        missing = 0
        for number, one in enumerate(asked):
            studies = peer.studies(query, one)
            missing += bool(one.accession) and not studies
            found += studies
            report(pulled=number + 1, of=len(asked))
        series = [one for study in found for one in wanted_series(peer, query, study)]
    counts = [one.images for one in series]
    journal = Journal(out)
    files = [file for study in journal.studies.values() for one in study.series.values() for file in one.files]
    name = Keeper(site_key(config)).name if journal.studies else str  # the key is made by the first pull
    here = sum(name(study.uid) in journal.studies for study in found)
    images = sum(count for count in counts if count is not None)
    return Counted(
        studies=len(found),
        series=len(series),
        images=None if None in counts else images,
        here=here,
        missing=missing,
        bytes_of_image=sum(file.size for file in files) / len(files) if files else None,
    )
