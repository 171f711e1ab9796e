"""Checks the SuperLink's database before each start, and sets it aside if it cannot be used.

The database can be lost without harm. Sites are in ``sites/``, runs and checkpoints in ``runs/``. A new database gives
the sites new node numbers, and the current run continues from its last complete round in a new Flower run.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from cdtl_core.system.durable import replace_bytes, unwritable
from cdtl_core.system.foreign import read_json

__all__ = ["DATABASE", "NODES", "condemn_database", "database_fault", "note_started", "prepare_database"]

DATABASE, NODES = "state.db", "nodes.json"
_CONDEMNED, _OLD = "condemned", "old"
_REGISTERED = "SELECT node_id FROM node WHERE status != 'unregistered'"  # flwr 1.42, linkstate_models.py; signed


def prepare_database(folder: Path) -> str:
    """Set an unusable database aside, so that the SuperLink makes a new one; an older one set aside is removed.

    The database must hold exactly the nodes of ``nodes.json``, which the coordinator's service registered in it.

    Args:
        folder: The SuperLink's folder.

    Returns:
        Why it was set aside, in a few words; empty if it is good, or if this is the first start.

    Raises:
        CheckpointError: Files cannot be moved.
    """
    if why := _condemned(folder) or database_fault(folder):
        _set_aside(folder)
    condemn_database(folder, "the SuperLink did not start with it")
    return why


def condemn_database(folder: Path, why: str) -> None:
    """Replace the database at the next start, unless `note_started` is called before."""
    replace_bytes(folder / _CONDEMNED, why.encode())


def database_fault(folder: Path) -> str:
    """Return why the database cannot be used, in a few words; empty if it can, or if there is none yet."""
    nodes, path = folder / NODES, folder / DATABASE
    if not path.exists():
        return "it was missing" if nodes.exists() else ""
    try:
        with closing(sqlite3.connect(path, timeout=5)) as database:
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            found = {number % 2**64 for (number,) in database.execute(_REGISTERED)}
    except sqlite3.Error as error:
        return f"it was damaged ({error})"
    if verdict != "ok":
        return "it was damaged"
    if found != {int(node["node"]) for node in read_json(nodes).values()}:
        return "it did not match the list of registered sites: one of the two is older"
    return ""


def note_started(folder: Path) -> None:
    """Record that the SuperLink answers, so its database is usable."""
    (folder / _CONDEMNED).unlink(missing_ok=True)


def _condemned(folder: Path) -> str:
    path = folder / _CONDEMNED
    return path.read_text(encoding="utf-8") if path.exists() and (folder / DATABASE).exists() else ""


def _set_aside(folder: Path) -> None:
    old = folder / _OLD
    try:
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir()
        for path in [*folder.glob(f"{DATABASE}*"), folder / NODES]:
            if path.exists():
                path.replace(old / path.name)
    except OSError as error:
        raise unwritable(old, error) from None
