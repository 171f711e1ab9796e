"""``HOME/used/<approval>.json``: how much of each approval has been used, kept permanently.

The file outlives a withdrawal: a run that is approved a second time has no more left than before.
"""

from collections.abc import Mapping
from pathlib import Path

from cdtl_core.config.folders import SiteFolder
from cdtl_core.config.schema import Flat
from cdtl_core.config.settings import unflatten
from cdtl_core.federation.limits import Order, Used, admitted, answered, load_used, save_used

__all__ = ["note_answer", "note_order", "used_of", "used_text"]


def note_order(home: Path, approval: str, settings: Flat, order: Order) -> Used:
    """Count an order durably before it is handed over; return the record.

    Args:
        home: The site's folder.
        approval: Its id.
        settings: The approved settings; they hold the limits.
        order: What the coordinator asks for.

    Raises:
        OverLimitError: The order exceeds the approval.
        PrivacyError: The record cannot be read.
        CheckpointError: It cannot be written.
    """
    before = used_of(home, approval)
    after = admitted(before, order, unflatten(settings))
    if after != before:
        save_used(_path(home, approval), after)
    return after


def note_answer(home: Path, approval: str, order: Order, reply: Mapping[str, int | float] | None) -> None:
    """Count an answer durably before it leaves.

    Args:
        home: The site's folder.
        approval: Its id.
        order: What the coordinator asked for.
        reply: The figures of a final evaluation, else None.

    Raises:
        PrivacyError: The record cannot be read.
        CheckpointError: It cannot be written.
    """
    save_used(_path(home, approval), answered(used_of(home, approval), order, reply))


def used_of(home: Path, approval: str) -> Used:
    """Return what has been used of an approval.

    Raises:
        PrivacyError: The record cannot be read.
    """
    return load_used(_path(home, approval))


def used_text(home: Path, approval: str, settings: Flat) -> str:
    """Describe the progress of an approved run at this site.

    Args:
        home: The site's folder.
        approval: Its id.
        settings: The approved settings.
    """
    used, config = used_of(home, approval), unflatten(settings)
    if not used.run:
        return "not started"
    evaluations = f"{len(used.evaluations)} of {config.limits.evaluations} final evaluations"
    rounds = f"round {used.last_round} of {config.federation.rounds}"
    return f"run {used.run} of {config.limits.runs}, {rounds}, {evaluations}"


def _path(home: Path, approval: str) -> Path:
    return SiteFolder(home).used / f"{approval}.json"
