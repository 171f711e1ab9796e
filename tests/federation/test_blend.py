"""The blend matrix: identities, refusals, retention."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.config import BlendConfig
from cdtl_core.errors import ConfigError
from cdtl_core.federation.blend import blend, blend_matrix, check_blend_matrix
from cdtl_core.federation.transfer import alpha_of_retention, contraction, retention


def models(*values: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        f"m{i}": {"a": torch.tensor([value, 2 * value]), "b": torch.tensor([[-value]])}
        for i, value in enumerate(values)
    }


def random_models(seed: int, count: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return {f"m{i}": {"a": torch.randn(5, generator=rng), "b": torch.randn(2, 3, generator=rng)} for i in range(count)}


def test_the_identity_leaves_every_model_as_it_is() -> None:
    before = random_models(0)
    after = blend(before, np.eye(3))
    assert all(after[m][t].equal(before[m][t]) for m in before for t in before[m])


def test_uniform_rows_are_the_uniform_mean_over_modalities() -> None:
    after = blend(models(1.0, 2.0, 6.0), np.full((3, 3), 1 / 3))
    for model in after.values():
        torch.testing.assert_close(model["a"], torch.tensor([3.0, 6.0]))
        torch.testing.assert_close(model["b"], torch.tensor([[-3.0]]))


def test_size_weighted_rows_are_fedavg_over_patients() -> None:
    matrix = blend_matrix(BlendConfig(policy="size", settle=0), {"m0": 10, "m1": 30}, round=1, rounds=5)
    np.testing.assert_allclose(matrix, [[0.25, 0.75], [0.25, 0.75]])
    after = blend(models(4.0, 8.0), matrix)
    assert after["m0"]["a"].tolist() == after["m1"]["a"].tolist() == [7.0, 14.0]


def test_a_hand_blend_of_two_modalities() -> None:
    config = BlendConfig(policy="fixed", alpha=0.75, settle=0)
    after = blend(models(1.0, 5.0), blend_matrix(config, {"m0": 7, "m1": 9}, round=1, rounds=1))
    assert after["m0"]["a"].tolist() == [2.0, 4.0]  # 0.75 * 1 + 0.25 * 5
    assert after["m1"]["a"].tolist() == [4.0, 8.0]


@given(st.integers(0, 10_000), st.floats(0.34, 1.0))
def test_each_coordinate_stays_between_the_models_and_the_mean_is_preserved(seed: int, alpha: float) -> None:
    before = random_models(seed)
    matrix = blend_matrix(
        BlendConfig(policy="fixed", alpha=alpha, settle=0), dict.fromkeys(before, 1), round=1, rounds=1
    )
    after = blend(before, matrix)
    for name in ("a", "b"):
        old = torch.stack([before[m][name] for m in before]).double()
        new = torch.stack([after[m][name] for m in after]).double()
        assert bool((new >= old.min(0).values - 1e-6).all())
        assert bool((new <= old.max(0).values + 1e-6).all())
        torch.testing.assert_close(new.mean(0), old.mean(0), atol=1e-6, rtol=1e-5)


def test_a_tensor_that_only_some_modalities_hold_is_blended_among_those() -> None:
    before = {
        "m0": {"head": torch.tensor([1.0])},
        "m1": {"head": torch.tensor([3.0])},
        "m2": {"other": torch.tensor([9.0])},
    }
    matrix = np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.4, 0.4, 0.2]])
    after = blend(before, matrix)
    assert after["m0"]["head"].item() == pytest.approx((0.5 * 1 + 0.25 * 3) / 0.75)
    assert after["m2"]["other"].item() == 9.0
    assert "head" not in after["m2"]


def test_warmup_and_settle_rounds_do_not_blend() -> None:
    config = BlendConfig(policy="fixed", alpha=0.6, warmup=1, settle=2)
    crossing = [
        not np.array_equal(blend_matrix(config, {"a": 5, "b": 5}, round=r, rounds=6), np.eye(2)) for r in range(1, 7)
    ]
    assert crossing == [False, True, True, True, False, False]


def test_annealed_starts_as_the_uniform_mean_and_ends_apart() -> None:
    config = BlendConfig(policy="annealed", settle=0)
    rounds = [blend_matrix(config, {"a": 1, "b": 2, "c": 3}, round=r, rounds=5) for r in range(1, 6)]
    np.testing.assert_allclose(rounds[0], np.full((3, 3), 1 / 3))
    np.testing.assert_allclose(rounds[-1], np.eye(3), atol=1e-12)
    assert all(np.diff([matrix[0, 0] for matrix in rounds]) > 0)


def test_retention_policy_lets_a_rich_modality_keep_more_than_a_scarce_one() -> None:
    matrix = blend_matrix(BlendConfig(policy="retention", settle=2), {"rich": 1000, "scarce": 10}, round=1, rounds=12)
    assert matrix[0, 0] > matrix[1, 1]
    assert retention(matrix[0, 0], modalities=2, rounds=10) == pytest.approx(0.95)
    assert retention(matrix[1, 1], modalities=2, rounds=10) == pytest.approx(0.2)


def test_retention_is_the_share_of_offset_left_when_blending_round_after_round() -> None:
    alpha, rounds, count = 0.9, 7, 3
    matrix = blend_matrix(
        BlendConfig(policy="fixed", alpha=alpha, settle=0), dict.fromkeys("abc", 1), round=1, rounds=rounds
    )
    offset, own = np.zeros(count), np.array([1.0, -1.0, 0.0])  # each modality offsets its own way each round
    for _ in range(rounds):
        offset = matrix @ (offset + own)
    assert offset[0] / rounds == pytest.approx(retention(alpha, modalities=count, rounds=rounds))


def test_three_modalities_and_twenty_rounds_as_in_the_design() -> None:
    assert retention(0.95, modalities=3, rounds=20) == pytest.approx(0.49, abs=0.01)
    assert contraction(0.5, 2) == 0.0


@given(st.floats(0.01, 0.99), st.integers(2, 6), st.integers(1, 40))
def test_alpha_of_retention_is_the_inverse_of_retention(rho: float, modalities: int, rounds: int) -> None:
    alpha = alpha_of_retention(rho, modalities=modalities, rounds=rounds)
    assert retention(alpha, modalities=modalities, rounds=rounds) == pytest.approx(rho, abs=1e-6)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], "row-stochastic"),
        ([[1.5, -0.5], [0.0, 1.0]], "row-stochastic"),
        ([[0.2, 0.8], [0.8, 0.2]], "swaps"),
        ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], "swaps"),
        ([[float("nan"), 1.0], [0.5, 0.5]], "finite"),
        ([[1.0, 0.0]], "square"),
    ],
)
def test_matrices_that_are_no_blend_are_refused(matrix: list[list[float]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_blend_matrix(np.array(matrix))


def test_a_scarce_receiver_may_take_almost_all_while_donors_keep_theirs() -> None:
    check_blend_matrix(np.array([[0.05, 0.95], [0.0, 1.0]]))


def test_named_donors_only() -> None:
    config = BlendConfig(policy="fixed", alpha=0.6, settle=0, donors={"a": ("b",), "b": ()})
    matrix = blend_matrix(config, {"a": 1, "b": 1, "c": 1}, round=1, rounds=2)
    np.testing.assert_allclose(matrix, [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
    with pytest.raises(ConfigError, match=r"blend\.donors names 'x'"):
        blend_matrix(
            BlendConfig(policy="annealed", donors={"a": ("x",)}, settle=0), {"a": 1, "b": 1}, round=1, rounds=2
        )


@pytest.mark.parametrize(("depth", "kept"), [("share_early", -1), ("share_late", 0)])
def test_depth_keeps_one_end_of_the_network_to_itself(depth: str, kept: int) -> None:
    before = {m: {f"layer{i}": torch.tensor([value]) for i in range(4)} for m, value in (("a", 0.0), ("b", 1.0))}
    after = [value.item() for value in blend(before, np.full((2, 2), 0.5), depth=depth)["a"].values()]
    assert after[kept] == 0.0
    assert after[0 if kept else -1] == 0.5
    assert after == sorted(after, reverse=bool(kept))


def test_one_modality_is_never_blended() -> None:
    assert blend_matrix(BlendConfig(settle=0), {"a": 3}, round=1, rounds=3).tolist() == [[1.0]]


@pytest.mark.parametrize("count", range(2, 9))
def test_annealing_ends_at_one_whatever_the_number_of_modalities_and_rounds(count: int) -> None:
    patients = {str(index): 10 for index in range(count)}
    for rounds in range(2, 13):
        last = blend_matrix(BlendConfig(policy="annealed"), patients, round=rounds, rounds=rounds)
        assert last == pytest.approx(np.eye(count))


def test_scarce_takes_from_richer_modalities_in_proportion_and_gives_less_as_it_grows() -> None:
    patients = {"histology": 10, "mammography": 50, "mri": 150, "ultrasound": 450}
    matrix = blend_matrix(BlendConfig(policy="scarce", settle=0), patients, round=1, rounds=4)
    assert matrix[1] == pytest.approx([0, 0.5, 0.125, 0.375])  # 50 / (50 + 50); 150 : 450
    assert matrix[3].tolist() == [0, 0, 0, 1]
    assert matrix[0, 0] == pytest.approx(10 / 60)
    assert matrix[0, 1:] == pytest.approx(np.array([50, 150, 450]) / 650 * 50 / 60)


def test_scarce_never_swaps_and_equals_take_nothing_from_each_other() -> None:
    matrix = blend_matrix(BlendConfig(policy="scarce", settle=0), {"a": 1, "b": 1, "c": 900}, round=1, rounds=1)
    assert matrix[0, 1] == matrix[1, 0] == 0
    assert matrix[2, 2] == 1
