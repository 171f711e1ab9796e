"""Connection check from a site to its coordinator: port, TLS, clock, admission; each failure has its own sentence."""

import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import httpx

from cdtl_core.deploy.coordinator_address import CoordinatorAddress
from cdtl_core.deploy.egress_filter.signing import load_signer
from cdtl_core.deploy.filter import CERTIFICATE_FILE, outbound_proxy, save_tls_key
from cdtl_core.deploy.keys import KEY_FILE
from cdtl_core.system.scratch import scratch_folder

__all__ = ["check_coordinator", "knows_key", "reach_coordinator"]

State = Literal["ok", "warning", "wrong"]
_AHEAD_S, _BEHIND_S = 5.0, 305.0
_LIMIT_S = 10.0


def check_coordinator(home: Path, address: CoordinatorAddress) -> Iterator[tuple[State, str]]:
    """Check the connection to the coordinator; stops at the first fault.

    Yields:
        A state and a sentence.
    """
    found = list(reach_coordinator(address, home / address.ca))
    yield from found
    if found[0][0] == "ok":
        yield _admitted(home, address, home / address.ca)


def reach_coordinator(address: CoordinatorAddress, ca: Path) -> Iterator[tuple[State, str]]:
    """Check port, TLS and clock, which needs no site; stops at the first fault.

    Args:
        address: The coordinator's address.
        ca: The authority's certificate.

    Yields:
        A state and a sentence.
    """
    where = f"{address.host}:{address.port}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    with httpx.Client(
        base_url=f"https://{host}:{address.port}",
        verify=ssl.create_default_context(cafile=ca),
        proxy=outbound_proxy(address.host),
        trust_env=False,
        timeout=_LIMIT_S,
    ) as client:
        try:
            answer = client.get("/health")
        except httpx.HTTPError as error:
            yield "wrong", _unreachable(where, error)
            return
    if answer.status_code != 200:
        yield "wrong", f"{where} answers, but its SuperLink does not: ask the coordinator to look."
        return
    yield "ok", f"{where} answers over TLS, by the authority in {ca.name}"
    yield _clock(answer)


def knows_key(keys: Path, address: CoordinatorAddress, ca: Path) -> bool:
    """Whether the coordinator accepts the key and certificate in a folder; False if it cannot be reached.

    Args:
        keys: Folder with key and certificate.
        address: The coordinator's address.
        ca: The authority's certificate.
    """
    return _admitted(keys, address, ca)[0] == "ok"


def _admitted(keys: Path, address: CoordinatorAddress, ca: Path) -> tuple[State, str]:
    host = f"[{address.host}]" if ":" in address.host else address.host
    with scratch_folder() as scratch:
        context = ssl.create_default_context(cafile=ca)
        save_tls_key(keys, scratch / "client.key")
        context.load_cert_chain(keys / CERTIFICATE_FILE, scratch / "client.key")
    with httpx.Client(
        base_url=f"https://{host}:{address.port}",
        verify=context,
        proxy=outbound_proxy(address.host),
        trust_env=False,
        timeout=_LIMIT_S,
    ) as client:
        return _asked(client, keys)


def _asked(client: httpx.Client, home: Path) -> tuple[State, str]:
    try:
        answer = client.post("/v1/fleet/get-run", content=b"", headers=load_signer(home / KEY_FILE).headers())
    except httpx.HTTPError:
        return "wrong", "the coordinator does not know this site's certificate: ask whether it is admitted."
    ours = "json" not in answer.headers.get(
        "content-type", ""
    )  # Flower's own 401: the request does not name one of its nodes
    if answer.status_code == 401 and ours:
        return "wrong", f"the coordinator refuses this site's key ({answer.text.strip() or 401}): ask to be admitted."
    if answer.status_code in (502, 503, 504):
        return "warning", f"the coordinator is not ready for this site ({answer.text.strip()[:100]}): check again soon."
    return "ok", "this site is admitted"


def _clock(answer: httpx.Response) -> tuple[State, str]:
    """Compare the clocks; Flower refuses a node whose clock is fast by more than 5 s or slow by more than 305 s."""
    if "date" not in answer.headers:
        return "warning", "the coordinator does not send its time, so the clocks were not compared"
    ahead = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    text = f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    if -_BEHIND_S < ahead < _AHEAD_S:
        return "ok", text
    return "wrong", f"{text}: set both by a time server (NTP)."


def _unreachable(where: str, error: httpx.HTTPError) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        if "expired" in text or "not yet valid" in text:
            return f"the certificate of {where} is not valid at this time: check this clock, then ask the coordinator."
        why = "has another name" if "mismatch" in text else "is signed by another authority than ca.crt"
        return f"the certificate of {where} {why}: check --server and --ca with the coordinator."
    if "SSL" in text or "TLS" in text:
        return f"{where} does not speak TLS: check the port with the coordinator."
    return f"{where} cannot be reached ({text or type(error).__name__}): check name, port, firewall and proxy."
