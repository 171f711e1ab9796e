"""Golden check: two versions of cdtl play the same small runs and must leave the same bits.

::

    python -m tests.golden [REF] [--only CASE] [--keep FOLDER]

REF (default: the last commit before the packages were moved) is checked out into a scratch folder. Both trees then play
every case through the `cdtl` command line, in one process on the CPU with one thread. Scores, weights, report.json,
compare.json, model cards and rounds.jsonl are compared value by value. Times and versions are left out. Sizes of
messages may differ by 5 % or 64 bytes, because a message holds names and names may change.

Noise of differential privacy comes from the kernel and never repeats. Here, and only here, `os.urandom` gives cdtl a
fixed sequence, so that a private run can be compared too.

The program prints each difference and ends with exit code 1 if there is one.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

BASELINE = "de8abd3"
ROOT = Path(__file__).resolve().parents[1]
_PLAYER = """
import hashlib, itertools, os, runpy, sys
kernel, numbers = os.urandom, itertools.count()
def fixed(size):
    if "cdtl_core" not in sys._getframe(1).f_code.co_filename:
        return kernel(size)
    return hashlib.shake_128(b"golden %d" % next(numbers)).digest(size)
os.urandom = fixed
sys.argv[0] = "cdtl"
runpy.run_module("cdtl_core.cli.main", run_name="__main__")
"""
_HEADS = """
[model]
levels = [4, 5, 6, 7]
[train]
freeze = 7
views = 2
steps = 12
lr = 0.002
"""
_SITES = """
[[sites]]
site = "north"
modality = "ultrasound"
data.phantom = { patients = 90, seed = 1 }
[[sites]]
site = "east"
modality = "ultrasound"
data.phantom = { patients = 60, seed = 2 }
[[sites]]
site = "south"
modality = "mammography"
data.phantom = { patients = 90, seed = 3, train = 24 }
"""
_PRIVATE = """
name = "private"
methods = ["alone", "cdtl"]
[image]
size = 48
[model]
levels = [6, 8]
dropout = 0.0
[train]
steps = 3
lr_decay = 0.0
[federation]
rounds = 2
[blend]
settle = 1
[dp]
enabled = true
"""
_BREAST = """
name = "breast"
methods = ["alone", "fedbn", "cdtl"]
[image]
size = 48
[train]
steps = 2
batch_size = 8
[federation]
rounds = 2
[pool]
networks = "evidence"
"""
_HEAD_RUN = f'name = "study"\n[image]\nsize = 48\n{_HEADS}[federation]\nrounds = 2\n'
CASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("", ("simulate", "demo", "--set", "federation.rounds=2", "--set", "train.steps=12")),
    "private": (_PRIVATE + _SITES.replace("seed = 2 }", "seed = 2 }\nprivacy.exempt = true"), ("simulate",)),
    "breast": (_BREAST + _SITES, ("simulate",)),
    "compare": (
        _HEAD_RUN + _SITES,
        ("compare", "--target", "south", "--patients", "20", "--seeds", "2", "--folds", "2", "--jobs", "1"),
    ),
}
"""Case to a configuration (empty: the arguments name a shipped one) and the arguments of the command."""

_LEFT_OUT = {"seconds", "own_seconds", "cdtl_version", "versions"}
_LEFT_OUT |= {"sha256", "ledger"}  # of a file that holds names; a random number
_SIZES = {"bytes_sent", "bytes_received", "sent", "received", "initial_weights_received", "initial_weights_bytes"}
_RENAMED = {"theta0": "initial_weights", "drift/": "offset/"}
_JSON = ("report.json", "compare.json", "model_card.json", "model.json", "state.json", "cells/*.json")


def play(tree: Path, case: str, folder: Path) -> None:
    """Play a case with the code of a tree; the run is written to `folder`.

    Raises:
        SystemExit: The command failed; its output is printed.
    """
    config, (command, *arguments) = CASES[case]
    if config:
        path = folder.with_suffix(".toml")
        path.write_text(config, encoding="utf-8")
        arguments.insert(0, str(path))
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", _PLAYER, command, *arguments, "--out", str(folder)],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{case} failed in {tree} with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


def content(folder: Path) -> dict[str, Any]:
    """Return everything compared in a run's folder: file and place in it to value."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found |= {f"{_name(path, folder)}: {name}": value for name, value in load_file(path).items()}
    for pattern in ("scores.csv", "validation.csv"):
        found |= {_name(path, folder): path.read_text(encoding="utf-8") for path in folder.rglob(pattern)}
    for path in [path for pattern in _JSON for path in folder.rglob(pattern)]:
        found |= {f"{_name(path, folder)}: {key}": value for key, value in _flat(json.loads(path.read_bytes()))}
    for number, line in enumerate((folder / "rounds.jsonl").open() if (folder / "rounds.jsonl").exists() else ()):
        found |= {f"rounds.jsonl: {number}.{key}": value for key, value in _flat(json.loads(line))}
    return {_renamed(name): value for name, value in found.items()}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value that is missing in one of two runs, or differs."""
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            yield f"{name} is in {'the new' if name not in one else 'the old'} run only"
        elif not _same(name, one[name], other[name]):
            yield f"{name} was {one[name]!r:.80} and is {other[name]!r:.80}"


def main() -> int:
    """Play and compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref", nargs="?", default=BASELINE)
    parser.add_argument("--only", action="append", choices=CASES, help="play this case; may be given again")
    parser.add_argument("--keep", type=Path, help="folder for the runs; the old tree's runs in it are used again")
    asked = parser.parse_args()
    scratch = (asked.keep or Path(tempfile.mkdtemp(prefix="golden-"))).absolute()
    (scratch / "new").mkdir(parents=True, exist_ok=True)
    (scratch / asked.ref).mkdir(exist_ok=True)
    tree, failed = scratch / "tree", 0
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--force", "--detach", tree, asked.ref], check=True)
    try:
        for case in asked.only or CASES:
            old, new = scratch / asked.ref / case, scratch / "new" / case
            if not (old / "done").exists():
                shutil.rmtree(old, ignore_errors=True)
                play(tree, case, old)
                (old / "done").touch()
            shutil.rmtree(new, ignore_errors=True)
            play(ROOT, case, new)
            before = content(old)
            found = list(differences(before, content(new)))
            print(f"{case}: {len(before)} values, {len(found)} differ", *found[:40], sep="\n  ", flush=True)
            failed += bool(found)
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
        if asked.keep is None:
            shutil.rmtree(scratch)
    return int(failed > 0)


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a JSON value with their places; what changes from run to run is left out."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in _LEFT_OUT:
                yield from _flat(part, f"{place}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _flat(part, f"{place}.{index}")
    else:
        yield place, value


def _same(name: str, one: Any, other: Any) -> bool:
    if hasattr(one, "dtype"):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if name.rpartition(".")[2] in _SIZES:
        return math.isclose(one, other, rel_tol=0.05, abs_tol=64)
    if isinstance(one, str) and isinstance(other, str):
        return _renamed(one) == _renamed(other)
    return type(one) is type(other) and bool(one == other)


if __name__ == "__main__":
    sys.exit(main())
