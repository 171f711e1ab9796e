"""Install PyPI's torch on a machine without a GPU: 5 GB less, each wheel still checked by its hash in the lock file.

PyPI's torch for Linux brings NVIDIA libraries, GPU machine code and Triton. A CPU never runs them, but torch does not
load without them. Indexes of CPU builds have other hashes and other version names than the lock file. So:

    python docker/cpu_torch.py lock requirements.lock > cpu.lock          # the lock file without NVIDIA's libraries
    pip install --require-hashes --no-deps -r cpu.lock
    python docker/cpu_torch.py strip .venv/lib/python3.11/site-packages   # needs gcc and binutils

`strip` changes torch in two ways. Each NVIDIA library that is left out gets a stand-in that defines the functions that
torch links against. A function that is called prints its name and aborts. Without a GPU torch calls none: it first asks
the CUDA runtime, which stays, how many GPUs there are. GPU machine code inside its own libraries is removed, and
so are the C++ headers. The instructions that a CPU runs, and their data, stay the bytes of the wheel.
"""

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

# Small libraries that torch calls on a CPU too: the runtime that answers "no GPU", profiling, reading files.
KEPT = {"nvidia-cuda-runtime", "nvidia-cuda-cupti", "nvidia-cufile"}
_LEFT_OUT = re.compile(r"nvidia-|cuda-|triton$")
_ON_DEMAND = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")  # torch opens them when a GPU first needs them
_REFUSE = """#include <stdio.h>
#include <stdlib.h>
static void refuse(const char *name) {
    fprintf(stderr, "torch called %s of CUDA, but this is the CPU installation of cdtl. Install it for GPUs.\\n", name);
    abort();
}
"""
_HEADER, _SEGMENT = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
_LOAD, _NOTE, _PAGE = 1, 4, 4096


def cpu_lock(text: str) -> str:
    """Return a lock file without NVIDIA's libraries and Triton.

    Args:
        text: A lock file: one requirement per entry, its hashes on indented lines.
    """
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    names = [re.split(r"[=\s]", entry, maxsplit=1)[0] for entry in entries]
    return "".join(
        entry for name, entry in zip(names, entries, strict=True) if name in KEPT or not _LEFT_OUT.match(name)
    )


def _read(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def wanted(libraries: list[Path], present: set[str]) -> dict[str, dict[str, str]]:
    """Return what the libraries need of absent ones: library, to function, to version ("" if it has none).

    Args:
        libraries: ELF files.
        present: Names of the libraries that are installed.
    """
    absent: dict[str, dict[str, str]] = defaultdict(dict)
    for path in libraries:
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", _read("readelf", "-dW", path))) - present
        owners: dict[str, str] = {}
        for library, names in re.findall(r"File: (\S+) .*\n((?:.* Name: .*\n)*)", _read("readelf", "-VW", path)):
            owners |= dict.fromkeys(re.findall(r"Name: (\S+)", names), library)
        for line in _read("nm", "-D", "--undefined-only", path).splitlines():
            name, _, version = line.split()[1].partition("@")
            for library in needed:
                stem = re.split(r"[._]", library.removeprefix("lib"))[0]
                if owners.get(version) == library if version else re.match(stem + "[A-Z]", name):
                    absent[library][name] = version
        for library in needed:
            absent[library]  # a library can be needed for nothing
    return absent


def stand_in(path: Path, functions: dict[str, str]) -> None:
    """Compile a library whose functions print their name and abort.

    Args:
        path: The file to write; its name is the name that others ask for.
        functions: Version of each function, or "".
    """
    versions: dict[str, list[str]] = defaultdict(list)
    for name, version in functions.items():
        versions[version].append(name)
    nodes = [f"{version} {{ global: {'; '.join(names)}; }};" for version, names in versions.items() if version]
    code = [_REFUSE, *(f'void {name}(void) {{ refuse("{name}"); }}' for name in functions)]
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch, "stand_in.c"), Path(scratch, "versions")
        source.write_text("\n".join(code))
        script.write_text("\n".join(nodes))
        flags = [f"-Wl,--version-script={script}"] if nodes else []
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-Os", "-s", f"-Wl,-soname,{path.name}", *flags, "-o", path, source], check=True
        )


class Segment(NamedTuple):
    """A program header of an ELF file, fields in the order of the file; addresses and sizes in bytes."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    in_file: int
    in_memory: int
    align: int


def split(segments: list[Segment], first: int, last: int) -> list[Segment]:
    """Return the segments with the addresses from `first` to `last` no longer in the file: the loader fills in zeros.

    The segment that holds them becomes two; the second takes the place of the note, which names the build only.
    """
    out = []
    for one in segments:
        if one.kind == _LOAD and one.address <= first < last <= one.address + one.in_file:
            skipped = last - one.address
            out.append(one._replace(in_file=first - one.address, in_memory=skipped))
            rest = {"offset": one.offset + skipped, "address": last, "physical": last}
            out.append(one._replace(**rest, in_file=one.in_file - skipped, in_memory=one.in_memory - skipped))
        elif one.kind != _NOTE:
            out.append(one)
    return out


def cut(path: Path, section: str = ".nv_fatbin") -> int:
    """Cut a section that nothing reads, and all that is never loaded, out of a library.

    Args:
        path: A 64-bit ELF library with a note; the section lies inside one loaded segment.
        section: The section's name.

    Returns:
        Bytes saved; 0 if the library has no such section.
    """
    found = re.search(rf" {re.escape(section)} +\w+ +([0-9a-f]+) [0-9a-f]+ ([0-9a-f]+)", _read("readelf", "-SW", path))
    if found is None:
        return 0
    start, size = (int(word, 16) for word in found.groups())
    old = path.read_bytes()
    header = list(_HEADER.unpack_from(old))
    table, count = header[5], header[10]
    before = [Segment(*_SEGMENT.unpack_from(old, table + i * _SEGMENT.size)) for i in range(count)]
    after = split(before, -(-start // _PAGE) * _PAGE, (start + size) // _PAGE * _PAGE)
    if len(after) > count:
        raise SystemExit(f"{path.name}: no room for one more segment. Install the GPU build of torch.")
    new, moved = bytearray(), {}
    for one in after:
        if one.kind == _LOAD:
            new += bytes((one.address - len(new)) % _PAGE)
            moved[one] = len(new)
            new += old[one.offset : one.offset + one.in_file]
    for i, one in enumerate(after):
        homes = (load for load in moved if load.address <= one.address < load.address + load.in_memory)
        home = next(homes, one)
        offset = moved[home] + one.address - home.address if home in moved else one.offset
        _SEGMENT.pack_into(new, table + i * _SEGMENT.size, *one._replace(offset=offset))
    header[6], header[10], header[12], header[13] = 0, len(after), 0, 0  # no table of sections any more
    _HEADER.pack_into(new, 0, *header)
    path.unlink()  # the file may be a hard link into pip's cache
    path.write_bytes(new)
    path.chmod(0o755)
    return len(old) - len(new)


def strip(packages: Path) -> list[str]:
    """Make the torch in `packages` one for a CPU; returns what was done, in lines.

    Raises:
        SystemExit: There is no torch built for CUDA.
    """
    own = packages / "torch" / "lib"
    if not (own / "libtorch_cuda.so").is_file():
        raise SystemExit(f"{packages} holds no torch built for CUDA: nothing to do.")
    for name in _ON_DEMAND:
        (own / name).unlink(missing_ok=True)
    shutil.rmtree(packages / "torch" / "include", ignore_errors=True)  # for compilers of extensions
    libraries = sorted([*own.glob("*.so"), *packages.glob("torch/_C*.so"), *packages.glob("torchvision/*.so")])
    present = {path.name for path in packages.rglob("*.so*")}
    present |= set(re.findall(r"^\s(\S+) \(", _read("/sbin/ldconfig", "-p"), re.MULTILINE))
    done = []
    for name, functions in sorted(wanted(libraries, present).items()):
        stand_in(own / name, functions)
        done.append(f"{name}: {len(functions)} functions that refuse")
    done += [f"{path.name}: {saved / 1e6:.0f} MB of GPU code cut out" for path in libraries if (saved := cut(path))]
    return done


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["lock", "strip"])
    parser.add_argument("path", type=Path, help="lock: the lock file; strip: the folder site-packages")
    given = parser.parse_args()
    sys.stdout.write(cpu_lock(given.path.read_text()) if given.step == "lock" else "\n".join(strip(given.path)) + "\n")


if __name__ == "__main__":
    main()
