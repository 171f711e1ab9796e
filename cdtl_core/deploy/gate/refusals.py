"""The sentences that may leave a site in place of a reply: a fixed list, since an error's text can hold anything."""

from flwr.app import Error

from cdtl_core.errors import ERROR_CODE_BASE, KINDS, CdtlError, FederationError, PrivacyError, reply_error

__all__ = ["HELD_BACK", "NOT_APPROVED", "RESTARTED", "UNKNOWN_RUN", "passing"]

_INVALID_FAB, _LOAD_FAILED, _CRASHED, _NODE_LOST = 7, 1, 8, 5  # flwr.common.constant.ErrorCode

NOT_APPROVED = (_INVALID_FAB, "The site has not approved this run.")
HELD_BACK = (
    ERROR_CODE_BASE + PrivacyError.exit_code,
    "PrivacyError: the site's gate held back a reply that is not on its egress list; its own log says why.",
)
RESTARTED = (_NODE_LOST, "The site was started anew while it worked on this message: ask it again.")
UNKNOWN_RUN = (
    ERROR_CODE_BASE + FederationError.exit_code,
    "FederationError: the site's gate could not fetch the run that this message belongs to.",
)
FLOWERS_OWN = {
    (_INVALID_FAB, "The FAB could not be verified."),
    (_LOAD_FAILED, "An exception was raised when attempting to load `ClientApp`"),
    (_CRASHED, "ClientApp stopped responding."),
}
_ALLOWED = {*FLOWERS_OWN, *(reply_error(kind) for kind in KINDS)}


def passing(error: Error) -> tuple[int, str]:
    """An error as it may leave: itself if it is on the list, else the sentence for an unexpected failure."""
    told = (error.code, error.reason or "")
    return told if told in _ALLOWED else reply_error(CdtlError)
