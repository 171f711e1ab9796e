"""Plays a part that writes again and again, each time with another failing call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.errors import CdtlError
from tests.faults.disk import EIO, ENOSPC, Disk
from tests.tables import Tries

WAYS = ((ENOSPC, False), (EIO, False), (ENOSPC, True), (EIO, True))
PROPERTY = "nothing is lost on a full disk"


class Room:
    """Plays one part again and again, each time with another failing call."""

    def __init__(self, folder: Path, tries: Tries) -> None:
        self._folder, self._tries = folder, tries
        self.places: set[tuple[str, int]] = set()

    def each(self, act: Callable[[Path, Disk], None], check: Callable[[Path], None]) -> None:
        """`act` may raise errors of cdtl's own family; then there is room, it acts again, and `check` must hold."""
        disk = Disk()
        with disk.installed():
            act(self._made("whole"), disk)
        check(self._folder / "whole")
        hits = {(call.place, error) for call in disk.seen for error in (ENOSPC, EIO)}
        for number, (call, most) in enumerate(disk.seen.items()):
            for nth in range(1, most + 1):
                for error, lasting in WAYS:
                    self._one(act, check, Disk(call, nth, error, lasting), f"{number}-{nth}-{error}-{lasting}")
        assert self.places == hits

    def _one(self, act: Callable[[Path, Disk], None], check: Callable[[Path], None], disk: Disk, name: str) -> None:
        folder, call, nth = self._made(name), disk.chosen, disk.nth
        with disk.installed():
            try:
                act(folder, disk)
            except CdtlError as error:
                told = str(error)
                disk.free()
                act(folder, disk)
                assert told.endswith(".")
            except OSError as error:
                raise AssertionError(f"{call}, call {nth}, error {disk.error}: not a sentence: {error!r}") from error
        assert disk.failed, f"{call}, call {nth}, did not come again"
        try:
            check(folder)
        except AssertionError as error:
            raise AssertionError(f"{call}, call {nth}, {disk.error}, lasting {disk.lasting}: {error}") from error
        assert call
        self.places.add((call.place, disk.error))
        self._tries.add()

    def _made(self, name: str) -> Path:
        (self._folder / name).mkdir()
        return self._folder / name


@pytest.fixture
def room(tmp_path: Path, tries: Tries) -> Room:
    return Room(tmp_path, tries)


def insisted(act: Callable[[], Any], disk: Disk) -> None:
    """Do a thing until it is done, as the programs do; there is room after the first failure."""
    try:
        act()
    except CdtlError:
        disk.free()
        act()
