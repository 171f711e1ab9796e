"""Work in pieces: with any number of threads, the bits are those of the plain sum."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from cdtl_core.federation.aggregate import Mean, fold_in
from cdtl_core.federation.blend import blend
from cdtl_core.federation.screening import digest_of, norm_of
from cdtl_core.models.pieces import PIECE, over_pieces, scratch, widened

SIZES = [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def halves(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {f"w{size}": torch.randn(size, generator=rng).half() for size in SIZES}


def test_every_number_is_visited_once_and_in_order(threads: int) -> None:
    values = [torch.arange(size, dtype=torch.float32) + 1000 * size for size in SIZES]

    def read(pieces: Sequence[tuple[torch.Tensor, ...]]) -> list[float]:
        return [float(number) for one, same in pieces for number in one if one.data_ptr() == same.data_ptr()]

    found = over_pieces(read, [(value, value) for value in values])
    assert 1 <= len(found) <= threads
    assert torch.tensor([number for share in found for number in share]).equal(torch.cat(values))
    assert over_pieces(read, []) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_widening_is_exact(dtype: torch.dtype) -> None:
    piece = torch.tensor([1.1, -0.0, 65504.0, 6e-8]).to(dtype)
    assert widened(piece, scratch(torch.float32), scratch(torch.float64)).equal(piece.to(torch.float64))


def test_sums_and_blends_are_those_of_whole_tensors(threads: int) -> None:
    mean, one, other = Mean(), halves(0), halves(1)
    fold_in(mean, one, 3)
    fold_in(mean, other, 5)
    for name, total in mean.sums.items():
        assert total.equal(3 * one[name].double() + 5 * other[name].double())
    mixed = blend({"a": one, "b": other}, np.array([[0.75, 0.25], [0.0, 1.0]]))
    for name in one:
        assert mixed["a"][name].equal((0.75 * one[name].double() + 0.25 * other[name].double()).float())


def test_the_length_of_an_update_is_that_of_all_its_values(threads: int) -> None:
    delta = halves(2)
    exact = float(torch.cat([value.double() for value in delta.values()]).norm())
    assert norm_of(delta) == pytest.approx(exact, rel=1e-6)
    largest = {"w": torch.full((2 * PIECE,), 65504.0).half()}
    assert norm_of(largest) == pytest.approx(65504.0 * (2 * PIECE) ** 0.5, rel=1e-6)
    assert norm_of({}) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, PIECE, 3 * PIECE + 4])
def test_one_value_that_is_not_finite_shows_in_the_length(bad: float, place: int) -> None:
    delta = halves(3)
    delta[f"w{SIZES[-1]}"][place] = bad
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
    assert digest_of(one, norm_of(one)) == digest_of(same, norm_of(same)) != digest_of(other, norm_of(other))
    swapped = {**one, f"w{PIECE}": one[f"w{PIECE}"].flip(0)}
    assert digest_of(swapped, norm_of(one)) != digest_of(one, norm_of(one))
