"""A filter of system calls for the sandbox, as a classic BPF program for the kernel and bubblewrap.

Namespaces do not cover everything. A socket to the host of a virtual machine (vsock) is outside network namespaces,
io_uring opens sockets without passing such a filter, and training needs neither the kernel's key rings nor its
debugging calls. These calls return "not permitted"; all others are allowed, since Flower and torch need many.
"""

import platform
import struct

__all__ = ["program"]

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NOT_PERMITTED, _UNKNOWN = 0x00050000 | 1, 0x00050000 | 38
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
"""From this number on, x86-64 has a second set of numbers for the same calls."""
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: the families that namespaces cover."""
_NEW_USER = 0x10000000
"""CLONE_NEWUSER: its own user namespace would return capabilities. clone3 hides its flags and is answered as
unknown.
"""
_CALLS: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        41,
        56,
        {
            "ptrace": 101, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "keyctl": 250,
            "add_key": 248, "request_key": 249, "unshare": 272,
            "perf_event_open": 298, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323, "open_by_handle_at": 304,
        },
    ),
    "aarch64": (
        0xC00000B7,
        198,
        220,
        {
            "ptrace": 117, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "keyctl": 219, "add_key": 217,
            "request_key": 218, "unshare": 97, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "bpf": 280, "userfaultfd": 282, "open_by_handle_at": 265,
        },
    ),
}  # fmt: skip
_CLONE3 = 435
_EVERYWHERE = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "fsopen": 430}


def program(machine: str = platform.machine()) -> bytes:
    """Return the filter for a machine; an unknown machine gets an empty filter that allows everything.

    Args:
        machine: As `platform.machine` names it.
    """
    if machine not in _CALLS:
        return _step(_RETURN, _ALLOW)
    known, socket_call, clone, calls = _CALLS[machine]
    steps = [
        _step(_LOAD, _MACHINE), _step(_EQUAL, known, 1, 0), _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER), _step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _UNKNOWN),
    ]  # fmt: skip
    for number in (*calls.values(), *_EVERYWHERE.values()):
        steps += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _NOT_PERMITTED)]
    steps += [_step(_EQUAL, _CLONE3, 0, 1), _step(_RETURN, _UNKNOWN)]
    steps += [_step(_EQUAL, clone, 0, 4), _step(_LOAD, _FIRST_ARGUMENT)]
    steps += [_step(_ANY_BIT, _NEW_USER, 0, 1), _step(_RETURN, _NOT_PERMITTED), _step(_RETURN, _ALLOW)]
    steps += [_step(_EQUAL, socket_call, 1, 0), _step(_RETURN, _ALLOW), _step(_LOAD, _FIRST_ARGUMENT)]
    for family in _FAMILIES:
        steps += [_step(_EQUAL, family, 0, 1), _step(_RETURN, _ALLOW)]
    return b"".join([*steps, _step(_RETURN, _NOT_PERMITTED)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
