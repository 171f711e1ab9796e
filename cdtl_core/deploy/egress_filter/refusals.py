"""The fixed sentences that may leave a site instead of a reply; the text of an error could hold anything."""

from flwr.app import Error

from cdtl_core.errors import ERROR_CODE_BASE, KINDS, CdtlError, FederationError, PrivacyError, reply_error
from cdtl_core.federation.limits import Limit

__all__ = ["HELD_BACK", "NOT_APPROVED", "NO_ROOM", "OVER", "RESTARTED", "UNKNOWN_RUN", "UNREADABLE", "passing"]

_INVALID_FAB, _LOAD_FAILED, _CRASHED, _NODE_LOST = 7, 1, 8, 5  # flwr.common.constant.ErrorCode

NOT_APPROVED = (_INVALID_FAB, "The site has not approved this run.")
HELD_BACK = (
    ERROR_CODE_BASE + PrivacyError.exit_code,
    "PrivacyError: the site's egress filter held back a reply that is not on its egress list; its own log gives the "
    "reason.",
)
RESTARTED = (_NODE_LOST, "The site was restarted while it worked on this message: ask it again.")
NO_ROOM = (_NODE_LOST, "The site has no room for another reply that waits for the coordinator: ask it again.")
UNREADABLE = (
    ERROR_CODE_BASE + PrivacyError.exit_code,
    "PrivacyError: the site's egress filter cannot read this message as one of cdtl, so the site does not get it.",
)
_OVER: tuple[tuple[Limit, str], ...] = (
    ("round", "this round, or not so often"),
    ("evaluation", "a further final evaluation"),
    ("weights", "these initial weights"),
    ("run", "that the run is played again: a request with more limits.runs is needed"),
)
OVER = {
    limit: (ERROR_CODE_BASE + PrivacyError.exit_code, f"PrivacyError: the site has not approved {what}.")
    for limit, what in _OVER
}
UNKNOWN_RUN = (
    ERROR_CODE_BASE + FederationError.exit_code,
    "FederationError: the site's egress filter could not fetch the run that this message belongs to.",
)
FLOWERS_OWN = {
    (_INVALID_FAB, "The FAB could not be verified."),
    (_LOAD_FAILED, "An exception was raised when attempting to load `ClientApp`"),
    (_CRASHED, "ClientApp stopped responding."),
}
_ALLOWED = {*FLOWERS_OWN, *(reply_error(kind) for kind in KINDS)}


def passing(error: Error) -> tuple[int, str]:
    """Return an error as it may leave: itself if it is on the list, else the sentence for an unexpected failure."""
    told = (error.code, error.reason or "")
    return told if told in _ALLOWED else reply_error(CdtlError)
