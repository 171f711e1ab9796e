"""The contents of an image: packages, sizes, and targets of an attacker inside a container."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Contents", "contents", "faults"]

_TOOLS = re.compile(r"^(pip[0-9.]*|cc|gcc([-0-9.]*)|g\+\+([-0-9.]*)|clang([-0-9.]*)|ld|as|make|git|curl|wget)$")


@dataclass
class Contents:
    """Result of an inspection.

    Attributes:
        packages: Debian's packages, each `name version`.
        distributions: Python's, each `name version`.
        folders: Bytes of the largest folders.
        bytes: Bytes of all files.
        elevated: Files that give another user's or group's rights.
        writable: What user 10001 may write, outside a volume and /tmp only if the root is not read-only.
        tools: Compilers, pip, and programs that fetch things.
    """

    packages: list[str] = field(default_factory=list)
    distributions: list[str] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    elevated: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)


def _walk(root: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Every path below `root`: itself, its name in the image, whether it is a folder. Links are not followed."""
    todo = [root]
    while todo:
        for path in sorted(todo.pop().iterdir()):
            folder = path.is_dir() and not path.is_symlink()
            yield path, Path("/") / path.relative_to(root), folder
            if folder:
                todo.append(path)


def _folder_of(name: Path) -> str:
    parts = name.parts
    deep = parts.index("site-packages") + 2 if "site-packages" in parts[:-1] else 3
    return "/" + "/".join(parts[1 : min(deep, len(parts) - 1)])


def contents(root: Path, uid: int = 10001) -> Contents:
    """List the root file system of an image.

    Args:
        root: The mounted image.
        uid: User and group that the containers run as.
    """
    found = Contents()
    seen: set[int] = set()
    for path, name, folder in _walk(root):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & _may_write(status, uid):
            found.writable.append(str(name))
        if folder or not stat.S_ISREG(status.st_mode):
            continue
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            found.elevated.append(str(name))
        if (status.st_mode & 0o111 and _TOOLS.match(name.name)) or name.match("pip/__main__.py"):
            found.tools.append(str(name))
        if status.st_ino not in seen:
            seen.add(status.st_ino)
            found.bytes += status.st_size
            place = _folder_of(name)
            found.folders[place] = found.folders.get(place, 0) + status.st_size
    return _packages(root, found)


def _may_write(status: os.stat_result, uid: int) -> int:
    """The bit of the rights that decides whether the user may write."""
    if status.st_uid == uid:
        return stat.S_IWUSR
    return stat.S_IWGRP if status.st_gid == uid else stat.S_IWOTH


def _packages(root: Path, found: Contents) -> Contents:
    debian = (root / "var" / "lib" / "dpkg" / "status").read_text()
    pairs = re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)", debian, re.MULTILINE)
    found.packages = [" ".join(pair) for pair in pairs]
    for path in sorted(root.glob("opt/cdtl/lib/python3*/site-packages/*.dist-info/METADATA")):
        head = dict(re.findall(r"^(Name|Version): (\S+)", path.read_text(errors="replace"), re.MULTILINE))
        found.distributions.append(f"{head['Name']} {head['Version']}")
    return found


def faults(found: Contents) -> list[str]:
    """Return forbidden contents of an image, in sentences."""
    allowed = re.compile(r"^/(tmp|var/tmp|run/lock|dev/.*|state)$")
    out = [f"{name} gives another user's rights" for name in found.elevated]
    out += [f"{name} can be written by the service" for name in found.writable if not allowed.match(name)]
    out += [f"{name} is a tool that a service does not need" for name in found.tools]
    left = [line for line in found.distributions if re.match(r"(nvidia-cu(blas|dnn|fft)|triton|pip) ", line)]
    return out + [f"{line} is installed in an image for a CPU" for line in left]
