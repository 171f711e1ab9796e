"""The streamed mean within a modality."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.errors import FederationError
from cdtl_core.federation.aggregate import Mean, fold_in, mean_of


def deltas(seed: int, count: int) -> list[tuple[dict[str, torch.Tensor], int]]:
    rng = torch.Generator().manual_seed(seed)
    patients = torch.randint(1, 5000, (count,), generator=rng).tolist()
    return [({"w": (torch.randn(4, 3, generator=rng) * 10.0**-i).half()}, n) for i, n in enumerate(patients)]


def streamed(updates: list[tuple[dict[str, torch.Tensor], int]]) -> dict[str, torch.Tensor]:
    mean = Mean()
    for delta, weight in updates:
        fold_in(mean, delta, weight)
    return mean_of(mean)


def test_streaming_equals_the_stacked_weighted_mean() -> None:
    updates = deltas(0, 6)
    stacked = torch.stack([delta["w"].double() for delta, _ in updates])
    weights = torch.tensor([float(n) for _, n in updates], dtype=torch.float64).view(-1, 1, 1)
    torch.testing.assert_close(streamed(updates)["w"], (stacked * weights).sum(0) / weights.sum(), rtol=1e-15, atol=0)


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_replies_changes_no_bit(seed: int, shuffler) -> None:
    updates = deltas(seed, 7)
    shuffled = updates.copy()
    shuffler.shuffle(shuffled)
    assert streamed(updates)["w"].equal(streamed(shuffled)["w"])


def test_hand_numbers() -> None:
    mean = streamed([({"w": torch.tensor([1.0]).half()}, 30), ({"w": torch.tensor([5.0]).half()}, 10)])
    assert mean["w"].item() == 2.0


def test_no_zero_is_negative() -> None:
    """Its sign would depend on how a sum begins."""
    for count in (1, 3, 7):
        found = mean_of(_mean([-0.0] * count))["w"]
        assert found.view(torch.int64).tolist() == [0]


def _mean(values: list[float]) -> Mean:
    mean = Mean()
    for value in values:
        fold_in(mean, {"w": torch.tensor([value], dtype=torch.float16)}, 3)
    return mean


def test_a_tensor_that_one_site_holds_is_averaged_over_that_site() -> None:
    mean = streamed([({"w": torch.ones(1).half()}, 1), ({"w": torch.zeros(1).half(), "head": torch.ones(1).half()}, 3)])
    assert mean["w"].item() == 0.25
    assert mean["head"].item() == 1.0


@pytest.mark.parametrize(
    ("delta", "weight", "says"),
    [
        ({"w": torch.ones(2)}, 0, "weight 0"),
        ({"w": torch.ones(3)}, 1, "shape"),
    ],
)
def test_a_bad_update_is_refused_and_changes_nothing(delta: dict[str, torch.Tensor], weight: int, says: str) -> None:
    mean = Mean()
    fold_in(mean, {"w": torch.ones(2).half()}, 2)
    with pytest.raises(FederationError, match=says):
        fold_in(mean, delta, weight)
    assert mean_of(mean)["w"].tolist() == [1.0, 1.0]


def test_an_update_without_tensors_changes_nothing() -> None:
    """A site whose network is frozen and whose head is its own sends none."""
    mean = Mean()
    fold_in(mean, {}, 3)
    assert mean_of(mean) == {}
    fold_in(mean, {"w": torch.ones(2).half()}, 2)
    fold_in(mean, {}, 3)
    assert mean_of(mean)["w"].tolist() == [1.0, 1.0]
