"""Damaged input by the million: `python -m tests.faults.fuzz --executions 1000000`; `--atheris`: coverage-guided.

Every reader of `tests.faults.decoders` must give a value or one of cdtl's own errors, within seconds and in bounded
memory. Ends with exit code 1 and the input if one does not.
"""

import argparse
import logging
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if "--atheris" in sys.argv:  # before anything of ours is imported otherwise
    import atheris

    with atheris.instrument_imports(include=["cdtl_core", "server"]):
        import tests.faults.decoders  # noqa: F401

from cdtl_core.errors import CdtlError
from tests.faults.decoders import Decoder, decoders

_MADE, OUTCOMES = " -> ", ("value", "own error")
SLOWEST_S, MEMORY_MB = 5, 400
_WORDS = (
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\\u0000",
    b"9" * 30,
    b"true",
    b"../../",
    b"[" * 1500,
    b'{"a":' * 1500,
    b"\xff\xfe",
)

_TEXT, _PATHS = re.compile(rb'"([^"\\]{0,100})"'), 0.3
_Edit = Callable[[bytearray, int, random.Random], None]


def _put(data: bytearray, start: int, end: int, new: bytes) -> None:
    data[start:end] = new


def _flipped(one: bytes, rng: random.Random) -> bytes:
    return bytes(byte ^ 1 << rng.randrange(8) for byte in one)


def _piece(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[start : start + rng.choice((1, 5, 30, 200))]


_EDITS: tuple[_Edit, ...] = (
    lambda data, place, _: _put(data, place, len(data), b""),
    lambda data, place, rng: _put(data, place, place + 1, bytes([rng.randrange(256)])),
    lambda data, place, rng: _put(data, place, place + 1, _flipped(data[place : place + 1], rng)),  # type: ignore[arg-type]
    lambda data, place, rng: _put(data, place, place + rng.choice((1, 2, 9, 40)), b""),
    lambda data, place, rng: _put(data, place, place + rng.choice((0, 0, 1, 4)), rng.choice(_WORDS)),
    lambda data, place, rng: _put(data, place, place, _piece(data, rng)),  # type: ignore[arg-type]
)


class TooSlow(BaseException):
    """A reader took longer than any reader may."""


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """Cut, set, swap, repeat, delete or insert; a few times over."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        rng.choice(_EDITS)(data, place, rng)
    return bytes(data)


def named(seed: bytes, words: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Now and then, the input whole with a path in the place of one of its texts; else nothing."""
    texts = list(_TEXT.finditer(seed)) if rng.random() < _PATHS else []
    if not texts:
        return b""
    place = rng.choice(texts)
    return seed[: place.start(1)] + rng.choice(words) + seed[place.end(1) :]


def attempt(decoder: Decoder, data: bytes) -> str:
    """Return a reader's outcome: one of `OUTCOMES`, or the name and place of a forbidden error."""
    try:
        decoder.read(data)
    except CdtlError:
        return OUTCOMES[1]
    except (Exception, TooSlow) as error:
        place = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in place if "/tests/" not in frame.filename]
        return f"{type(error).__name__} in {Path((own or place)[-1].filename).name}:{(own or place)[-1].lineno}"
    return OUTCOMES[0]


@contextmanager
def bounded() -> Iterator[None]:
    """A reader that hangs is interrupted; one that takes memory without end cannot have it."""

    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    logging.disable(logging.CRITICAL)  # a reader that warns of each damaged file
    try:
        yield
    finally:
        signal.alarm(0)
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGALRM, before)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def precious(folder: Path) -> tuple[bytes, ...]:
    """Files that no input may touch, beside what the readers use; the words with which an input could name them."""
    outside = folder / "outside"
    outside.mkdir(parents=True)
    for suffix in ("", ".safetensors", ".json", ".jsonl", ".toml", ".fab", ".csv"):
        (outside / f"precious{suffix}").write_bytes(b"precious")
    ways = (str(outside), "../outside", "../../outside", "../../../outside", "./../outside", "..//outside")
    return tuple(f"{way}/precious".encode() for way in ways)


def run(executions: int, seed: int, folder: Path) -> Counter[str]:
    """Damage and read files; return the counts of each outcome, by reader."""
    rng, table, found = random.Random(seed), decoders(folder), Counter[str]()
    words, outside = precious(folder), tree_of(folder / "outside")
    names, start_mb = list(table), peak_mb()
    costs = dict.fromkeys(names, 0.0)
    with bounded():
        for number in range(executions):
            name = names[number % len(names)] if number < 50 * len(names) else cheapest(rng, names, costs, found)
            decoder = table[name]
            whole = rng.choice(decoder.seeds)
            data = named(whole, words, rng) or damaged(whole, rng)
            signal.alarm(SLOWEST_S)
            began = time.perf_counter()
            outcome = attempt(decoder, data)
            if outcome not in OUTCOMES and not found[f"{name}{_MADE}{outcome}"]:
                print(
                    f"{name}: {outcome} from {data[:100]!r}... ({len(data)} bytes), seed {seed}, number {number}",
                    file=sys.stderr,
                )
            costs[name] += time.perf_counter() - began
            found[name] += 1
            found[f"{name}{_MADE}{outcome}"] += 1
    assert tree_of(folder / "outside") == outside, "an input reached a file outside"
    assert peak_mb() - start_mb < MEMORY_MB, f"memory grew from {start_mb:.0f} to {peak_mb():.0f} MB"
    return found


def cheapest(rng: random.Random, names: list[str], costs: dict[str, float], found: Counter[str]) -> str:
    """Readers in proportion to how many of them a second holds, at least a little of each."""
    one, other = rng.choice(names), rng.choice(names)
    return min(one, other, key=lambda name: costs[name] / found[name])


def guided(executions: int, folder: Path) -> None:
    """Run the same readers guided by coverage of cdtl's code; atheris ends the process."""
    logging.disable(logging.CRITICAL)
    table = decoders(folder / "readers")
    names, corpus = list(table), folder / "corpus"
    corpus.mkdir(parents=True)
    for number, name in enumerate(names):
        for which, seed in enumerate(table[name].seeds):
            (corpus / f"{number}-{which}").write_bytes(bytes([number]) + seed)

    def one(data: bytes) -> None:
        if data and (outcome := attempt(table[names[data[0] % len(names)]], data[1:])) not in OUTCOMES:
            raise AssertionError(f"{names[data[0] % len(names)]}: {outcome}")

    options = [f"-runs={executions}", "-timeout=10", "-rss_limit_mb=3000", "-max_len=20000", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz, print the table, and fail if a reader did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if options.atheris:
            guided(options.executions, Path(folder))
            return
        began = time.monotonic()
        found = run(options.executions, options.seed, Path(folder))
    print("| what is read | executions | a value | an own error |\n|---|---|---|---|")
    names = [name for name in found if _MADE not in name]
    for name in names:
        print(f"| {name} | {found[name]} | " + " | ".join(str(found[f"{name}{_MADE}{one}"]) for one in OUTCOMES) + " |")
    total = sum(found[name] for name in names)
    print(f"{total} executions in {time.monotonic() - began:.0f} s, seed {options.seed}, peak {peak_mb():.0f} MB")
    broken = sum(found[f"{name}{_MADE}{one}"] for name in names for one in OUTCOMES) - total
    sys.exit(f"{-broken} ended in neither" if broken else 0)


if __name__ == "__main__":
    main()
