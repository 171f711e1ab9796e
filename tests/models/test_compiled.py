"""Compiled loops: the bits of torch, and nothing of numba in a small run."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdtl_core.config import RunConfig
from cdtl_core.errors import ModelError
from cdtl_core.federation.aggregate import AT_ONCE, Mean, fold_in, mean_of
from cdtl_core.federation.norms import norm_and_digest, norm_of
from cdtl_core.federation.round import step
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, Member, start
from cdtl_core.models import compiled
from cdtl_core.models.compiled import Loops, loops_for, on_cores
from cdtl_core.models.pieces import PIECE
from cdtl_core.models.weights import weights_hash

FINITE = st.integers(0, 2**16 - 1).filter(lambda bits: bits & 0x7C00 != 0x7C00)
"""Bits of a float16: subnormal, negative zero, the largest; not infinite, not NaN."""


@pytest.fixture(scope="module")
def loops() -> Loops:
    pytest.importorskip("numba", reason="numba is not installed: pip install 'cdtl[fast]'")
    found = loops_for(1 << 40)
    if found is None:
        assert torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), "this torch sums in another order"
        pytest.skip("this processor does not widen float16")
    return found


def halves(bits: list[int], size: int, seed: int) -> torch.Tensor:
    """The given bits, then any finite ones."""
    drawn = np.random.default_rng(seed).integers(0, 2**16, size, np.uint16)
    drawn[(drawn & 0x7C00) == 0x7C00] &= 0xBFFF
    drawn[: len(bits)] = bits
    return torch.from_numpy(drawn.view(np.float16))


def summed(loops: Loops | None, updates: list[torch.Tensor], weights: list[int]) -> torch.Tensor:
    mean = Mean(loops=loops)
    for value, weight in zip(updates, weights, strict=True):
        fold_in(mean, {"w": value}, weight)
    return mean_of(mean)["w"]


@settings(max_examples=40, deadline=None)
@given(
    bits=st.lists(FINITE, max_size=40),
    weights=st.lists(st.integers(1, 10**6), min_size=AT_ONCE + 1, max_size=2 * AT_ONCE + 2),
    size=st.integers(40, 3000),
    seed=st.integers(0, 1000),
)
def test_sums_have_the_bits_of_torch(loops: Loops, bits: list[int], weights: list[int], size: int, seed: int) -> None:
    updates = [halves(bits, size, seed + i) for i in range(len(weights))]
    given = summed(loops, updates, weights)
    assert given.view(torch.int64).equal(summed(None, updates, weights).view(torch.int64))


@settings(max_examples=40, deadline=None)
@given(
    bits=st.lists(st.integers(0, 2**16 - 1), max_size=5),
    odd=st.sampled_from([0, 0, 3]),
    scale=st.sampled_from([6e-8, 1e-3, 1.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_norms_have_the_bits_of_torch(loops: Loops, bits: list[int], odd: int, scale: float, seed: int) -> None:
    """Also with numbers that are not finite, which a norm must show. Which of several NaN it has is not defined.

    The loops leave an odd length to torch.
    """
    drawn = np.random.default_rng(seed).standard_normal(2 * PIECE + 8 * (seed % 3) + odd) * scale
    value = torch.from_numpy(drawn.astype(np.float16))
    value[seed : seed + len(bits)] = torch.from_numpy(np.array(bits, np.uint16).view(np.float16))
    delta = {"w": value.view(-1, 8) if odd == 0 else value}
    compiled, plain = norm_of(delta, loops), norm_of(delta)
    assert np.float64(compiled).tobytes() == np.float64(plain).tobytes() or np.isnan([compiled, plain]).all()
    assert norm_of(delta, loops) > 0 or not np.isfinite(norm_of(delta))


def played(monkeypatch: pytest.MonkeyPatch, worth: int, threads: int) -> tuple[CoordinatorState, list[float]]:
    """A round of twelve sites of two modalities, of tensors that are shared out among threads."""
    monkeypatch.setattr(compiled, "_WORTH", worth)
    before, rng = torch.get_num_threads(), torch.Generator().manual_seed(0)
    torch.set_num_threads(threads)
    try:
        config = RunConfig.model_validate({"blend": {"policy": "fixed", "alpha": 0.7, "settle": 0}})
        members = [Member(f"s{i}", ("mri", "ultrasound")[i % 2], 3 + i, "L1") for i in range(12)]
        sizes = {"a": (40, PIECE), "b": (7, 11), "c": (3 * PIECE + 5,)}
        updates = [
            SiteUpdate(m.site, 1, {n: torch.randn(s, generator=rng).half() for n, s in sizes.items()}) for m in members
        ]
        state, report = step(start(members, config), updates, config)
        assert set(report.updated) == {member.site for member in members}
        return state, [norm for site in sorted(state.records) for norm in state.records[site].norms]
    finally:
        torch.set_num_threads(before)


def test_a_round_has_the_same_bits_with_and_without_loops_and_with_any_number_of_threads(
    loops: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [played(monkeypatch, worth, threads) for worth in (0, 1 << 40) for threads in (1, 2)]
    hashes = {tuple(weights_hash(weights) for weights in state.offsets.values()) for state, _ in found}
    digests = {tuple(state.records[site].digests for site in sorted(state.records)) for state, _ in found}
    assert (len(hashes), len(digests), len({tuple(norms) for _, norms in found})) == (1, 1, 1)


@pytest.mark.parametrize("worth", [0, 1 << 40])
def test_of_several_tensors_that_overflow_the_first_is_named(
    loops: Loops, monkeypatch: pytest.MonkeyPatch, worth: int
) -> None:
    monkeypatch.setattr(compiled, "_WORTH", worth)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    config = RunConfig.model_validate({"blend": {"policy": "fixed", "alpha": 0.7, "settle": 0}})
    members = [Member(f"s{i}", ("mri", "ultrasound")[i % 2], 3 + i, "L1") for i in range(8)]
    names = ["first", *map(str, range(6))]
    try:
        state = start(members, config)
        for number, value in ((1, 40000.0), (2, 39000.0)):
            delta = {name: torch.full((PIECE,), value).half() for name in names}
            updates = [SiteUpdate(member.site, number, delta) for member in members]
            if number == 1:
                state, _ = step(state, updates, config)
                continue
            with pytest.raises(ModelError, match="not finite in 'first'"):
                step(state, updates, config)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_digests_are_those_of_every_61st_number_in_any_layout() -> None:
    value = (torch.arange(64 * 61) % 7).half().view(61, 64)  # squares that are summed exactly in any order
    looks = [value, value.t().contiguous().t(), value.flip(0)]
    (norm, digest), same, (equal, other) = (norm_and_digest({"w": one}) for one in looks)
    assert same == (norm, digest)
    assert equal == norm
    assert other != digest


def test_an_error_of_any_thread_reaches_the_caller_with_its_type() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    done = []

    def fail() -> None:
        raise ZeroDivisionError("a part")

    try:
        for jobs in ([fail, lambda: done.append(1)], [lambda: done.append(1), fail], [fail, fail]):
            with pytest.raises(ZeroDivisionError, match="a part"):
                on_cores(jobs)
    finally:
        torch.set_num_threads(before)
    assert done == [1, 1]


@pytest.mark.integration
def test_a_small_round_imports_no_compiler() -> None:
    script = """
import sys, torch
from cdtl_core.config import RunConfig
from cdtl_core.federation.round import step
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import Member, start
config = RunConfig()
step(start([Member("a", "mri", 3, "L1")], config), [SiteUpdate("a", 1, {"w": torch.ones(9).half()})], config)
print([name for name in ("numba", "llvmlite", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("['torch']", 0), done.stderr


@pytest.mark.integration
def test_a_numba_that_cannot_compile_is_said_and_torch_computes() -> None:
    pytest.importorskip("numba", reason="numba is not installed: pip install 'cdtl[fast]'")
    script = "from cdtl_core.models.compiled import loops_for; print(loops_for(1 << 40))"
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("None", 0), done.stderr
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert "numba cannot compile" in done.stderr


@pytest.mark.integration
def test_no_machine_code_is_kept_on_the_disk(loops: Loops, tmp_path: Path) -> None:
    """Others could change it, and the next run would execute it."""
    assert loops
    script = "from cdtl_core.models.compiled import loops_for; assert loops_for(1 << 40)"
    env = {**os.environ, "HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=env, cwd=tmp_path, check=True, timeout=120)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc") or path.is_file()]


def test_another_order_of_sums_is_noticed(loops: Loops) -> None:
    """Sums that differ in the last bit stand for those of another torch."""

    def square(found: np.ndarray, bits: np.ndarray) -> None:
        loops.square(found, bits)
        found *= np.float32(1 + 2**-23)

    assert compiled._sums_as_torch(loops)
    assert not compiled._sums_as_torch(replace(loops, square=square))
