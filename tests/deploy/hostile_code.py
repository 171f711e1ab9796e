"""Attacks of hostile approved code in the node; standard library only, since it runs there.

``attack(FACTS)`` with the facts of the machine that the attacker could know; it returns what worked and what did not.
What would harm the machine is tried only in another mount namespace than the test's own.
"""

import ctypes
import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_NEW_USER = 0x10000000
_FAMILIES = ((2, 3), (10, 3), (17, 3), (38, 5), (40, 1))
"""Raw ones, packets, the kernel's ciphers, and vsock, which leads from a virtual machine to its host."""
_KERNEL_FILES = ("core_pattern", "modprobe", "hostname")
_KERNEL_FILES = (*(f"/proc/sys/kernel/{name}" for name in _KERNEL_FILES), "/proc/sysrq-trigger", "/proc/mtrr")
_DEVICES = ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/tty", "/proc/kcore")
_CALLS = {"io_uring_setup": 425, "bpf": 321, "keyctl": 250, "userfaultfd": 323, "fsopen": 430}


def attack(facts: dict[str, Any]) -> dict[str, str]:
    """Try everything; a name leads to an empty text where it was refused, else to what was got."""
    found, outside = {}, str(Path("/proc/self/ns/mnt").readlink()) == facts["mounts"]
    for name, attempt in _harmless(facts) if outside else _attempts(facts):
        try:
            got = attempt()
        except OSError:
            got = None
        found[name] = str(got)[:200] if got else ""
    return found


def _harmless(facts: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    for path in facts["secrets"]:
        yield f"read {path}", partial(Path(path).read_bytes)
    for path in facts["hidden"]:
        yield f"list {path}", partial(os.listdir, path)
    for host, port in facts["listeners"]:
        yield f"connect to {host}:{port}", partial(_connect, socket.AF_INET, (host, port))
    for path in facts["sockets"]:
        yield f"connect to {path!r}", partial(_connect, socket.AF_UNIX, path)
    for pid in facts["pids"]:
        yield f"read /proc/{pid}/environ", partial(Path(f"/proc/{pid}/environ").read_bytes)


def _attempts(facts: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    yield from _harmless(facts)
    for path in facts["files"]:
        yield f"write {path}", partial(_write, Path(path))
    for path in facts["folders"]:
        yield f"make a file in {path}", partial(_write, Path(path) / "hostile")
    yield "send a datagram out", _datagram
    yield "resolve a name", lambda: socket.getaddrinfo("example.org", 443)
    yield "see an interface", lambda: [name for _, name in socket.if_nameindex() if name != "lo"]
    for family, kind in _FAMILIES:
        yield f"open a socket of family {family} and type {kind}", partial(_open, family, kind)
    yield from _processes(facts["pids"])
    yield from _kernel(facts["home"].encode())


def _processes(pids: list[int]) -> Iterator[tuple[str, Callable[[], object]]]:
    for pid in pids:
        for file in ("mem", "cmdline", "root/etc/hostname"):
            yield f"read /proc/{pid}/{file}", partial(Path(f"/proc/{pid}/{file}").read_bytes)
        yield f"signal {pid}", lambda pid=pid: os.kill(pid, 0) or "reached"
        yield f"trace {pid}", lambda pid=pid: _zero(_LIBC.ptrace(16, pid, 0, 0))
    yield "see a process outside", lambda: [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    yield "trace itself", lambda: _zero(_LIBC.ptrace(0, 0, 0, 0))
    yield "gain rights by exec", lambda: _LIBC.prctl(39, 0, 0, 0, 0) != 1
    yield "hold a capability", lambda: int(_status("CapEff"), 16) or int(_status("CapBnd"), 16)


def _kernel(home: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    for path in _KERNEL_FILES:
        yield f"open {path} for writing", lambda path=path: os.close(os.open(path, os.O_WRONLY)) or "open"
    for path in _DEVICES:
        yield f"open {path}", lambda path=path: os.close(os.open(path, os.O_RDONLY)) or "open"
    yield "unmount the site's folder", lambda: _zero(_LIBC.umount2(home, 2))
    yield "mount", lambda: _zero(_LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None))
    yield "remount the site's folder", lambda: _zero(_LIBC.mount(b"none", home, None, 32, None))
    yield "unshare a user namespace", lambda: _zero(_LIBC.unshare(_NEW_USER))
    yield "change the root", lambda: os.chroot("/tmp") or "done"
    yield "make a device node", lambda: os.mknod("/tmp/device", 0o60600, os.makedev(254, 0)) or "made"
    if platform.machine() == "x86_64":
        for name, number in _CALLS.items():
            yield f"call {name}", lambda number=number: _called(number, 0, 0, 0, 0)
        yield "clone a user namespace", _cloned


def _write(path: Path) -> str:
    with open(path, "ab") as file:
        file.write(b"\nhostile\n")
    return "written"


def _connect(family: int, address: Any) -> str:
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
        return "connected"


def _datagram() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return f"{one.sendto(b'x', ('192.0.2.1', 53))} byte"


def _open(family: int, kind: int) -> str:
    with socket.socket(family, kind):
        return "open"


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _zero(result: int) -> str:
    return "done" if result == 0 else ""


def _called(*arguments: int) -> str:
    return "done" if _LIBC.syscall(*arguments) >= 0 else ""


def _cloned() -> str:
    pid = _LIBC.syscall(56, _NEW_USER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return "done" if pid > 0 else ""


if __name__ == "__main__":
    json.dump(attack(json.loads(sys.argv[1])), sys.stdout)
