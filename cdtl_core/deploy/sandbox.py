"""The sandbox of a site's node on a machine that also runs the filter: Linux namespaces, made by bubblewrap.

Inside are: no network but loopback, a file system with system libraries, this Python, the images (read-only) and the
folders that the approved code writes; only its own processes; no capabilities, no new privileges, and a filter of
system calls. Nothing else is visible.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config import SiteConfig
from cdtl_core.config.folders import APPROVED_FILE
from cdtl_core.data.source import rows_of_manifest
from cdtl_core.deploy.link import COPIED, NODE_FOLDERS
from cdtl_core.deploy.seccomp import program
from cdtl_core.errors import ConfigError

__all__ = ["Place", "enclosed", "readable_folders", "sandbox_fault"]

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "passwd", "group", "nsswitch.conf")
_MACHINE = ("/sys/devices/system/cpu", "/sys/devices/system/node")
"""Number of processors; torch chooses its threads by it."""
_KERNEL = ("/proc/sys", "/proc/sysrq-trigger", "/proc/mtrr")
"""Writable by user 0 even without capabilities."""
_GPU = ("nvidia*", "dri", "kfd")
_MOST_FOLDERS = 200
_PROBE_S = 20.0


@dataclass(frozen=True)
class Place:
    """The parts of the machine that the node sees; everything else is hidden from it.

    Attributes:
        home: The site's folder; only the folders that the approved code writes are visible.
        link: Leads to the filter; read-only.
        scratch: The node's own folder.
        images: Folders and files with the site's images; read-only.
    """

    home: Path
    link: Path
    scratch: Path
    images: tuple[Path, ...] = ()


def enclosed(place: Place, command: list[str], env: Mapping[str, str]) -> list[str]:
    """Return the command line that runs `command` in the sandbox of `place`, with only this environment.

    The filter of system calls is read from a file in `place.scratch`'s parent, which the sandbox does not show.

    Args:
        place: The visible parts of the machine.
        command: The program and its arguments.
        env: The environment.
    """
    rules = place.scratch.parent / "seccomp.bpf"
    rules.write_bytes(program())
    options = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"]
    options += ["--cap-drop", "ALL", "--seccomp", "9", "--clearenv"]
    for name, value in env.items():
        options += ["--setenv", name, value]
    options += [*_system(), *_devices(), "--tmpfs", "/tmp"]  # noqa: S108 - a private one
    options += _read_only(*_python(), *place.images)
    options += [*_home(place), "--bind", *_same(place.scratch), "--remount-ro", "/"]
    options += ["--chdir", str(place.scratch)]
    bwrap = shutil.which("bwrap") or "bwrap"
    return ["/bin/sh", "-c", 'exec "$@" 9< "$0"', str(rules), bwrap, *options, "--", *command]


def sandbox_fault() -> str:
    """Return why no sandbox can be made here, as a sentence; empty if one can. One is made and ended to find out."""
    if sys.platform != "linux":
        return "a sandbox needs Linux."
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed: install the package bubblewrap."
    with tempfile.TemporaryDirectory(prefix="cdtl-") as name:
        folder = Path(name)
        for part in ("home", "link", "scratch"):
            (folder / part).mkdir()
        place = Place(folder / "home", folder / "link", folder / "scratch")
        try:
            done = subprocess.run(  # noqa: S603
                enclosed(place, [sys.executable, "-I", "-c", "pass"], {"PATH": os.defpath}),
                capture_output=True, text=True, timeout=_PROBE_S, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "bubblewrap (bwrap) does not answer."
    if done.returncode == 0:
        return ""
    why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"bubblewrap (bwrap) cannot make a sandbox here ({why}): allow user namespaces for this account."


def readable_folders(home: Path, own: SiteConfig) -> tuple[Path, ...]:
    """Return the folders and files that hold a site's images, as its manifest names them.

    The manifest's own folder is shown whole, unless it is a site's folder; then only its folders with images are shown.

    Raises:
        ConfigError: Images lie loose in a site's folder.
        DataError: The manifest cannot be read.
    """
    if own.data.manifest is None:
        return ()
    manifest = (own.data.root.expanduser() / own.data.manifest).absolute()
    below, folder = [], manifest.parent
    shown = {manifest}
    files = {Path(os.path.normpath(row.file)) for row in rows_of_manifest(manifest)}
    for file in files:
        if file.is_relative_to(folder):
            below.append(file)
        else:
            shown.add(file.parent)
    if not _is_site(folder) and folder != home:
        return _few({*shown, folder} - {manifest})
    if loose := [file for file in below if file.parent == folder and not file.is_dir()]:
        raise ConfigError(
            f"the image {loose[0].name} is directly in the site's folder: move the images to a subfolder."
        )
    return _few(shown | {folder / file.relative_to(folder).parts[0] for file in below})


def _is_site(folder: Path) -> bool:
    return (folder / "site.key").exists()


def _few(paths: set[Path]) -> tuple[Path, ...]:
    """Return the same folders, or their parents if they are too many to show one by one."""
    depth = max((len(path.parts) for path in paths), default=0)
    while len(paths) > _MOST_FOLDERS and depth > 2:
        depth -= 1
        paths = {Path(*path.parts[:depth]) for path in paths}
    return tuple(sorted(path for path in paths if not any(above in paths for above in path.parents)))


def _system() -> Iterator[str]:
    for name in _SYSTEM:
        if Path(name).is_symlink():
            yield from ("--symlink", str(Path(name).readlink()), name)
        elif Path(name).is_dir():
            yield from ("--ro-bind", name, name)
    for name in _ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


def _devices() -> Iterator[str]:
    """Return its own processes, the harmless devices, and every GPU with the files that its driver reads."""
    yield from ("--proc", "/proc", "--dev", "/dev")
    for name in _KERNEL:
        yield from ("--ro-bind-try", name, name)
    gpus = sorted({str(path) for name in _GPU for path in Path("/dev").glob(name)})
    for name in gpus:
        yield from ("--dev-bind-try", name, name)
    for name in ("/sys",) if gpus else _MACHINE:
        yield from ("--ro-bind-try", name, name)


def _python() -> Iterator[Path]:
    """Return this Python, its packages, and the files of cdtl that are run by their path."""
    for name in dict.fromkeys((sys.base_prefix, sys.prefix)):
        if not Path(name).is_relative_to("/usr"):
            yield Path(name)
    yield from map(Path(__file__).with_name, ("node_main.py", "node_supernode.py", "node_executor.py"))


def _home(place: Place) -> Iterator[str]:
    """Return an empty folder in place of the site's, with what the approved code reads and writes."""
    yield from ("--tmpfs", str(place.home))
    inside = [path for path in place.images if path.is_relative_to(place.home)]
    yield from _read_only(*inside)
    for name in NODE_FOLDERS:
        if (place.home / name).exists():
            yield from ("--bind", *_same(place.home / name))
    yield from _read_only(place.link)
    for name in (*COPIED, APPROVED_FILE):
        yield from ("--symlink", str(place.link / name), str(place.home / name))
    yield from ("--remount-ro", str(place.home))


def _read_only(*paths: Path) -> Iterator[str]:
    for path in paths:
        yield from ("--ro-bind", *_same(path))


def _same(path: Path) -> Iterable[str]:
    """Return a path's real location, and the path under which it is visible."""
    return os.path.realpath(path), str(path)
