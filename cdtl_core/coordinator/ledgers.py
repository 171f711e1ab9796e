"""Which privacy ledger each site last showed: a site that comes back without it, or with an older one, is left out."""

from pathlib import Path

from cdtl_core.errors import FederationError
from cdtl_core.federation.round import Member
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["KnownLedgers"]


class KnownLedgers:
    """The coordinator's memory of its sites' ledgers, over all runs; ``site -> [number, reservations]`` in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def admit(self, member: Member) -> None:
        """Check a site's ledger against what is known, and remember it.

        Raises:
            FederationError: It is another ledger than before, or an earlier copy.
        """
        if not member.ledger:
            return
        known = self._load()
        ledger, reservations = known.get(member.site, (member.ledger, 0))
        if member.ledger != ledger or member.reservations < reservations:
            what = "another privacy ledger" if member.ledger != ledger else "an earlier copy of its privacy ledger"
            raise FederationError(
                f"site {member.site} came back with {what}, so what its patients have spent is not known: it has to "
                "restore the newest copy of its folder privacy."
            )
        known[member.site] = (member.ledger, member.reservations)
        replace_json(self._path, known)

    def _load(self) -> dict[str, tuple[str, int]]:
        if not self._path.exists():
            return {}
        try:
            found = parse_json(self._path.read_text(encoding="utf-8")).items()
            return {site: (str(ledger), int(count)) for site, (ledger, count) in found}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise FederationError(
                f"{self._path} cannot be read ({type(error).__name__}): restore it, ledgers are held against it."
            ) from None
