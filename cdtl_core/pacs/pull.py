"""Pulls studies from a PACS into a folder: what is missing there, several at a time, each on its own risk."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.pacs.arrival import Arrival, fetch_study
from cdtl_core.pacs.faults import PacsAwayError, PacsError, quiet_libraries, unexpected
from cdtl_core.pacs.journal import Journal, StudyRecord
from cdtl_core.pacs.keep import Keeper
from cdtl_core.pacs.manifest import write_pulled
from cdtl_core.pacs.pace import Pace, Stopped
from cdtl_core.pacs.peer import Peer, open_peers
from cdtl_core.pacs.query import Asked, Query, Study
from cdtl_core.pacs.secret import site_key
from cdtl_core.pacs.settings import PacsConfig
from cdtl_core.system.durable import locked, unwritable
from cdtl_core.system.progress import report

__all__ = ["Pulled", "pull"]

_T = TypeVar("_T")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0


@dataclass
class Pulled:
    """The result of a pull.

    Attributes:
        fetched: Studies that arrived now.
        here: Studies that had arrived before.
        failed: Keyed hash of a study to why it is missing.
        missing: Keyed hashes of accession numbers for which the PACS has no study.
        images: Images that arrived now.
        size: Their bytes.
        left_out: Reason to number of images that were left out.
        rows: Rows of the manifest.
        without_label: Rows without a label.
        is_stopped: Whether a person ended it.
        seconds: How long it took.
    """

    fetched: int = 0
    here: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    images: int = 0
    size: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    without_label: int = 0
    is_stopped: bool = False
    seconds: float = 0.0


def pull(
    config: PacsConfig,
    out: Path,
    query: Query,
    asked: Sequence[Asked],
    *,
    pace: Pace,
    verify: bool = False,
) -> Pulled:
    """Fetch the studies that were asked for and are not in a folder yet, and write its manifest.

    Args:
        config: The PACS.
        out: The folder; a second pull into it adds to it.
        query: Conditions on studies and series.
        asked: Accession numbers with labels; or one `Asked` without a number, whose label all studies get.
        pace: When a study may begin.
        verify: Compare every file with its hash first, and fetch what was changed again.

    Raises:
        ConfigError: A secret, a certificate or a package is missing, or the key would be in the folder.
        PacsError: The first question is not answered.
        CheckpointError: The disk is full or read-only, or another pull uses the folder.
    """
    if config.key_folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"the key of all hashes would be among the images ({config.key_folder}): name another folder for them, or "
            "set key_folder to the site's folder."
        )
    key = site_key(config)
    _make_private(out)
    with locked(out), quiet_libraries(), open_peers(config) as peers:
        journal = Journal(out)
        journal.clean(verify=verify)
        drafts = out / ".arriving"
        shutil.rmtree(drafts, ignore_errors=True)
        arrival = Arrival(journal, Keeper(key, config.devices), drafts)
        try:
            return _Puller(config, query, arrival, peers, pace).run(out, asked)
        finally:
            shutil.rmtree(drafts, ignore_errors=True)


def _make_private(out: Path) -> None:
    """Make the folder of patients' images for this account alone; a folder that exists stays as it is."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            out.mkdir(mode=0o700)
    except OSError as error:
        raise unwritable(out, error) from None


class _Puller:
    """One pull. Studies are fetched in threads; the journal is written by the thread that started it.

    Args:
        config: The PACS.
        query: Conditions.
        arrival: Where studies are written.
        peers: Gives each thread its connection.
        pace: When a study may begin.
    """

    def __init__(
        self, config: PacsConfig, query: Query, arrival: Arrival, peers: Callable[[], Peer], pace: Pace
    ) -> None:
        self._config, self._query, self._arrival, self._peers, self._pace = config, query, arrival, peers, pace
        self._journal, self._name = arrival.journal, arrival.keeper.name
        self._result = Pulled()
        self._in_a_row = 0

    def run(self, out: Path, asked: Sequence[Asked]) -> Pulled:
        """Fetch all, and write the manifest whatever happens."""
        began, result = time.monotonic(), self._result
        try:
            self._run(asked)
        except (KeyboardInterrupt, Stopped):
            result.is_stopped = True
        finally:
            rows = write_pulled(out, self._journal)
            result.rows, result.without_label = len(rows), sum(not row.label for row in rows)
        result.seconds = time.monotonic() - began
        return result

    def _run(self, asked: Sequence[Asked]) -> None:
        self._pace.begin()
        first = self._peers().studies(self._query, asked[0])  # a wrong address or password ends here
        items = [(one, None) for one in asked[1:]] if len(asked) > 1 else []
        work: list[tuple[Asked, list[Study] | None]] = [(asked[0], [study]) for study in first] or [(asked[0], [])]
        work += items
        with ThreadPoolExecutor(self._config.downloads) as pool:
            waiting = iter(work)
            running: set[Future[list[_Done]]] = set()
            count = 0
            try:
                while True:
                    while len(running) < self._config.downloads and (item := next(waiting, None)) is not None:
                        running.add(pool.submit(self._fetch, *item))
                    if not running:
                        return
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for one in finished:
                        count += 1
                        self._note(one.result())
                        report(pulled=count, of=len(work))
            finally:
                self._pace.stop()

    def _fetch(self, asked: Asked, studies: list[Study] | None) -> list["_Done"]:
        """Fetch what one question finds; a fault of one study leaves the others alone."""
        is_begun = studies is None
        try:
            if studies is None:
                self._pace.begin()  # a question counts as its first study
                studies = self._persist(lambda peer: peer.studies(self._query, asked))
        except PacsError as error:
            return [_Done(self._name(asked.accession), None, str(error), is_away=isinstance(error, PacsAwayError))]
        if not studies and asked.accession:
            return [_Done(self._name(asked.accession), None, "")]
        return [self._fetch_study(one, asked.label, is_begun=is_begun and one is studies[0]) for one in studies]

    def _fetch_study(self, study: Study, label: str, *, is_begun: bool) -> "_Done":
        if not is_begun:
            self._pace.begin()
        name = self._name(study.uid)
        before = self._journal.studies.get(name, StudyRecord())
        accession = before.accession or (self._name(study.accession) if study.accession else "")
        record = StudyRecord(before.patient, accession, label or before.label, before.is_complete, dict(before.series))
        try:
            is_new = self._persist(lambda peer: fetch_study(peer, self._query, study, self._arrival, record))
        except (Stopped, CheckpointError):
            raise
        except PacsError as error:
            record.is_complete = False
            return _Done(name, record, str(error), is_away=isinstance(error, PacsAwayError))
        except Exception as error:  # one study's fault; its text may hold what it was about
            record.is_complete = False
            return _Done(name, record, unexpected(error))
        record.is_complete = True
        self._pace.count(sum(one.size for key, one in record.series.items() if key not in before.series))
        return _Done(name, record, "", is_new=is_new)

    def _persist(self, action: Callable[[Peer], _T]) -> _T:
        """Try again while the PACS is away, at longer and longer intervals, until the patience ends."""
        until, pause = time.monotonic() + self._config.patience_s, _FIRST_WAIT_S
        while True:
            peer = self._peers()
            try:
                return action(peer)
            except PacsAwayError:
                peer.close()
                if time.monotonic() + pause > until:
                    raise
            self._pace.sleep(pause)
            self._pace.wait_for_window()
            pause = min(2 * pause, _LONGEST_WAIT_S)

    def _note(self, all_done: list["_Done"]) -> None:
        for done in all_done:
            if done.record is None and not done.reason:
                self._result.missing.append(done.name)
                self._journal.add_missing(done.name, "not in the PACS")
            elif done.record is None:
                self._result.failed[done.name] = done.reason
                self._journal.add_missing(done.name, done.reason)
            else:
                self._note_study(done, done.record)
            self._in_a_row = self._in_a_row + 1 if done.is_away else 0
        if self._in_a_row >= max(3, self._config.downloads):
            raise PacsError("the PACS stays away: give the command again when it runs; what has arrived is kept.")

    def _note_study(self, done: "_Done", record: StudyRecord) -> None:
        result, before = self._result, self._journal.studies.get(done.name)
        if before != record:
            self._journal.add(done.name, record, reason=done.reason)
        if done.reason:
            result.failed[done.name] = done.reason
            return
        new = [one for key, one in record.series.items() if before is None or before.series.get(key) != one]
        result.images += sum(len(one.files) for one in new)
        result.size += sum(one.size for one in new)
        for one in new:
            result.left_out.update(one.left_out)
        result.fetched += done.is_new
        result.here += not done.is_new


@dataclass(frozen=True)
class _Done:
    """What became of a study: its keyed hash (or its accession number's), what has arrived, and why not all of it."""

    name: str
    record: StudyRecord | None
    reason: str
    is_new: bool = False
    is_away: bool = False
