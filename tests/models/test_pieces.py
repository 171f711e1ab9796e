"""Work in parts: with any number of threads, the bits are those of the plain sum."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cdtl_core.federation.aggregate import Mean, fold_in, mean_of
from cdtl_core.federation.blend import blend
from cdtl_core.federation.norms import norm_and_digest, norm_of
from cdtl_core.models.pieces import PIECE, Buffers, half_of_difference, in_parts, one_thread, rows_of

SIZES = [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5, 40 * PIECE + 3]


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def halves(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {f"w{size}": torch.randn(size, generator=rng).half() for size in SIZES}


@pytest.mark.parametrize("size", [0, *SIZES])
def test_every_number_is_visited_once_and_in_order(threads: int, size: int) -> None:
    value = torch.arange(size, dtype=torch.float32)
    parts = list(in_parts(value, value))
    assert all(one.data_ptr() == same.data_ptr() for one, same in parts)
    assert torch.cat([one for one, _ in parts]).equal(value)
    rows = list(rows_of(value))
    assert torch.cat([row.flatten() for row in (*rows, value[:0])]).equal(value)
    assert {row.shape[1] for row in rows[:-1]} <= {PIECE}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_widening_is_exact(dtype: torch.dtype) -> None:
    part = torch.tensor([1.1, -0.0, 65504.0, 6e-8]).to(dtype)
    assert Buffers().double(part).equal(part.to(torch.float64))


def test_sums_and_blends_are_those_of_whole_tensors(threads: int) -> None:
    mean, updates = Mean(), [(halves(seed), 3 + seed) for seed in range(6)]
    for update, weight in updates:
        fold_in(mean, update, weight)
    patients = sum(weight for _, weight in updates)
    for name, value in mean_of(mean).items():
        total = torch.stack([weight * update[name].double() for update, weight in updates]).sum(0)
        assert value.equal(total / patients)
    one, other = updates[0][0], updates[1][0]
    mixed = blend({"a": one, "b": other}, np.array([[0.75, 0.25], [0.0, 1.0]]))
    for name in one:
        assert mixed["a"][name].equal((0.75 * one[name].double() + 0.25 * other[name].double()).float())
        assert mixed["b"][name].equal(other[name])
        assert mixed["b"][name] is not other[name]


def test_the_length_is_the_exact_sum_over_pieces_of_float32_sums(threads: int) -> None:
    """Norms are in a run's records: their bits are part of what a resumed run must find."""
    delta = halves(2)
    pieces = [piece for value in delta.values() for piece in torch.split(value, PIECE)]
    assert norm_of(delta) == math.sqrt(math.fsum(float(piece.float().square_().sum()) for piece in pieces))


def test_the_length_of_an_update_is_that_of_all_its_values(threads: int) -> None:
    delta = halves(2)
    exact = float(torch.cat([value.double() for value in delta.values()]).norm())
    assert norm_of(delta) == pytest.approx(exact, rel=1e-6)
    largest = {"w": torch.full((2 * PIECE,), 65504.0).half()}
    assert norm_of(largest) == pytest.approx(65504.0 * (2 * PIECE) ** 0.5, rel=1e-6)
    assert norm_of({}) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_measuring_an_update_does_not_change_it(dtype: torch.dtype) -> None:
    delta = {"w": torch.full((PIECE + 1,), 3.0, dtype=dtype)}
    assert norm_of(delta) == pytest.approx(3 * (PIECE + 1) ** 0.5)
    assert delta["w"].unique().tolist() == [3.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, PIECE, 3 * PIECE + 4])
def test_one_value_that_is_not_finite_shows_in_the_length(bad: float, place: int) -> None:
    delta = halves(3)
    delta[f"w{3 * PIECE + 5}"][place] = bad
    assert not torch.tensor(norm_of(delta)).isfinite()


def test_the_length_has_the_same_bits_with_any_number_of_threads() -> None:
    before, found = torch.get_num_threads(), set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.add(norm_of(halves(4)))
    torch.set_num_threads(before)
    assert len(found) == 1


def test_digests_tell_updates_apart() -> None:
    one, same, other = halves(5), halves(5), halves(6)
    assert norm_and_digest(one) == norm_and_digest(same) != norm_and_digest(other)
    swapped = {**one, f"w{PIECE}": one[f"w{PIECE}"].flip(0)}
    assert norm_and_digest(swapped)[1] != norm_and_digest(one)[1]


@pytest.mark.parametrize("shape", [(), (3,), (PIECE * 5,), (40, 30), (24, 16, 3, 3)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "other", "transposed", "gaps"])
def test_a_rounded_difference_has_the_bits_of_the_plain_one_in_any_layout(shape: tuple[int, ...], layout: str) -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)
    wanted = (one - other).half()
    if layout in {"channels last", "other"} and one.ndim == 4:
        one = one.to(memory_format=torch.channels_last)
        other = other.to(memory_format=torch.channels_last) if layout == "channels last" else other
    if layout == "transposed" and one.ndim > 1:
        one, other = (value.transpose(0, 1).contiguous().transpose(0, 1) for value in (one, other))
    if layout == "gaps" and one.ndim:
        one, other = (torch.stack([value, value], dim=-1)[..., 0] for value in (one, other))
    before = one.clone()
    found = half_of_difference(one, other)
    assert found.is_contiguous()
    assert found.equal(wanted)
    assert found.dtype == torch.float16
    assert one.equal(before)


def test_torch_has_its_threads_again_after_an_error(threads: int) -> None:
    @one_thread()
    def fail() -> None:
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == threads
