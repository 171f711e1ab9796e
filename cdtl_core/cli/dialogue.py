"""Questions on a terminal, each answer checked at once, and those about a site's coordinator."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import typer
from click import UsageError

from cdtl_core.cli.new_site import Asked
from cdtl_core.deploy.coordinator_address import CoordinatorAddress, parse_address
from cdtl_core.deploy.invitation import Invitation, load_invitation
from cdtl_core.deploy.keys import is_spoken
from cdtl_core.errors import CdtlError
from cdtl_core.system.foreign import visible
from cdtl_core.system.scratch import scratch_folder

__all__ = ["MOST", "ask", "ask_coordinator", "ask_invitation", "one_of", "say"]

MOST = 2000
"""Characters of a sentence."""
_NONE, _LATER = "none", "later"
_Answer = TypeVar("_Answer")


def ask_invitation() -> tuple[Path | None, Invitation | None]:
    """Ask for an invitation and compare its fingerprint; None and None if there is no invitation."""
    found = next((path for path in sorted(Path().glob("*.json")) if _is_invitation(path)), None)

    def check(text: str) -> tuple[Path | None, Invitation | None]:
        if text == _NONE:
            return None, None
        path = Path(text).expanduser()
        return path, load_invitation(path)

    path, invitation = ask("Invitation, a file from the coordinator", check, str(found or _NONE))
    if invitation:
        labels = ", ".join(map(visible, invitation.task.labels))
        say(f"  Invited as {invitation.site} to {visible(invitation.host)}:{invitation.port}; labels {labels}.")
        _ask_fingerprint(invitation.fingerprint)
        _reach(CoordinatorAddress(host=invitation.host, port=invitation.port), invitation.authority.encode("ascii"))
    return path, invitation


def _is_invitation(path: Path) -> bool:
    try:
        load_invitation(path)
    except CdtlError:
        return False
    return True


def _ask_fingerprint(fingerprint: str) -> None:
    def check(text: str) -> bool:
        if text != _LATER and not is_spoken(fingerprint, text):
            raise UsageError(
                "these are not the last groups of the invitation's fingerprint. Let them be read out again; if they "
                "still differ, the file was replaced on its way: stop with Ctrl-C, and tell the coordinator."
            )
        return text != _LATER

    say("  Call the coordinator at a number that you know from another source.")
    if ask("The last four groups of the fingerprint that it reads out", check, _LATER):
        say("  The same: this is the coordinator's invitation.")
    else:
        say(f"  Compare it before you start the site:\n  {fingerprint}")


def _reach(address: CoordinatorAddress, authority: bytes) -> None:
    """Tell whether the coordinator answers from here; a site may be made before it does."""
    from cdtl_core.deploy.reaching import reach_coordinator  # httpx takes a while to load

    with scratch_folder() as scratch:
        (scratch / "ca.crt").write_bytes(authority)
        for state, sentence in reach_coordinator(address, scratch / "ca.crt"):
            say(f"  {'' if state == 'ok' else 'Note: '}{visible(sentence, MOST)}")


def ask_coordinator(asked: Asked) -> Asked:
    """Ask for the coordinator's address and authority, which an invitation would hold."""

    def check_server(text: str) -> str:
        if text != _LATER:
            parse_address(text)
        return "" if text == _LATER else text

    def check_authority(text: str) -> Path:
        path = Path(text).expanduser()
        if not path.is_file() or b"BEGIN CERTIFICATE" not in path.read_bytes():
            raise UsageError(f"{path} is not a PEM certificate: give the coordinator's ca.crt.")
        return path

    server = ask("The coordinator's address, HOST:PORT", check_server, _LATER)
    if not server:
        return asked
    ca = ask("Its certificate, ca.crt", check_authority, "ca.crt" if Path("ca.crt").is_file() else None)
    _reach(parse_address(server), ca.read_bytes())
    return replace(asked, server=server, ca=ca)


def ask(text: str, check: Callable[[str], _Answer], default: str | None) -> _Answer:
    """Ask until an answer passes the check; its sentence is shown for one that does not.

    Args:
        text: The question.
        check: Returns what the answer means; raises `CdtlError` or `UsageError`.
        default: The answer of an empty line; None: there is none.
    """

    def checked(answer: str) -> _Answer:
        try:
            return check(answer.strip())
        except CdtlError as error:
            raise UsageError(visible(error, MOST)) from None
        except OSError as error:
            raise UsageError(f"it cannot be read ({error.strerror}).") from None

    found: _Answer = typer.prompt(text, default=default, value_proc=checked)
    return found


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return the check of an answer that must be one of these names."""

    def check(text: str) -> str:
        if text not in names:
            raise UsageError(f"give one of {', '.join(names)}.")
        return text

    return check


def say(text: str) -> None:
    """Print a line."""
    typer.echo(text)
