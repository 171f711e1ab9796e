"""Network isolation of a service and its children, and folders hidden from them.

Flower's control API asks for no password: a program that reaches its port on 127.0.0.1 can run code as the service. In
a network namespace, 127.0.0.1 belongs to the service only. Sockets opened before stay connected to the machine's
network, so a public port is opened first and passed on.

User namespaces make this possible without root. There are two, one inside the other: the inner one cannot undo what the
outer one has set up, not even as root. ``python -m cdtl_core.system.isolation`` prints why isolation is not possible.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["has_own_network", "isolate", "isolation_fault", "try_isolation"]

_NEW_MOUNTS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # linux/sched.h
_READ_ONLY, _NO_SUID, _NO_DEV, _NO_EXEC = 1, 2, 4, 8  # linux/mount.h
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
_PROBE_S = 30.0


def isolation_fault() -> str:
    """Return why `isolate` is not possible here, in a few words; empty if it is. It is tried in another process."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cdtl_core.system.isolation"],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be tried: {error}"
    return "" if done.returncode == 0 else done.stdout.strip() or done.stderr.strip()[-200:]


def try_isolation(hidden: Iterable[Path] = ()) -> str:
    """Isolate this process if possible; returns the reason in a few words if not, else an empty text."""
    if _threads() != 1:
        return "this process has several threads"
    if fault := isolation_fault():
        return fault
    isolate(hidden)
    return ""


def isolate(hidden: Iterable[Path] = ()) -> None:
    """Move this process and all its future children into a network namespace with 127.0.0.1 only.

    Call it before any thread starts: Linux refuses it afterwards, and numpy starts threads when it is imported. Files
    keep their owners, but root no longer overrides the permissions of other accounts' files.

    Args:
        hidden: Folders that appear empty from now on, for this process and its children.

    Raises:
        OSError: It is not possible here. The process may be half isolated then, so call `isolation_fault` first.
    """
    ids = os.getuid(), os.getgid()
    _unshare(_NEW_USER | _NEW_NETWORK | _NEW_MOUNTS, ids)
    _start_loopback()
    for folder in hidden:
        _cover(folder)
    _unshare(_NEW_USER | _NEW_MOUNTS, ids)  # mounts of the outer namespace are locked in the inner one


def has_own_network() -> bool:
    """Whether this process sees only the loopback network, as under systemd's PrivateNetwork=yes."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def _threads() -> int:
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except FileNotFoundError:  # not Linux: `isolation_fault` reports it
        return 1


def _unshare(flags: int, ids: tuple[int, int]) -> None:
    _call("unshare", flags)
    user, group = ids
    for name, text in {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}.items():
        Path("/proc/self", name).write_text(text, encoding="ascii")


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(handle, _GET_FLAGS, request), 16)
        fcntl.ioctl(handle, _SET_FLAGS, struct.pack("16sh22x", b"lo", flags | _UP))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass


def _cover(folder: Path) -> None:
    flags = _READ_ONLY | _NO_SUID | _NO_DEV | _NO_EXEC
    _call("mount", b"none", os.fsencode(folder), b"tmpfs", flags, b"size=4k,mode=0700")


def _call(name: str, *arguments: object) -> None:
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:
        raise OSError(errno.ENOSYS, "this system has no namespaces; Linux has") from None
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        isolate()
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
        sys.exit(1)
