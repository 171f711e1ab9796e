"""Donors chosen by evidence, for blends in every round."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdtl_core.config import BlendConfig, RunConfig
from cdtl_core.federation.blend import blend_matrix
from cdtl_core.federation.transfer import Matrix, transfer_of
from cdtl_core.simulation.methods.blended import settings_of, unblended_round
from cdtl_core.simulation.methods.cdtl_learned import (
    cdtl_learned,
    learned_matrix,
    rows_of,
    update_cosines,
    validation_gains,
)
from cdtl_core.simulation.methods.loop import states_of
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.track import Track, begin

Build = Callable[..., Federation]


def run(rounds: int = 6, **blend: object) -> RunConfig:
    return RunConfig.model_validate({"federation": {"rounds": rounds}, "blend": {"settle": 1, **blend}})


def test_donors_share_in_proportion_to_positive_evidence() -> None:
    evidence = np.array([[9.0, 0.1, 0.3], [-0.2, 9.0, -0.1], [0.0, 0.5, 9.0]])
    assert rows_of(evidence) == pytest.approx(np.array([[0, 0.25, 0.75], [0, 1, 0], [0, 1, 0]]))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_uniform_evidence_gives_the_matrices_of_the_annealed_policy(count: int) -> None:
    rows = rows_of(np.ones((count, count)))
    patients = {str(index): 10 for index in range(count)}
    config = run(warmup=1)
    for round in range(1, 7):
        expected = blend_matrix(BlendConfig(policy="annealed", warmup=1, settle=1), patients, round=round, rounds=6)
        assert learned_matrix(rows, config, round=round) == pytest.approx(expected)


def test_own_shares_start_where_no_models_are_swapped_and_end_at_one() -> None:
    pairs = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    first = learned_matrix(pairs, run(), round=1)
    assert first == pytest.approx(np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]))
    one_way = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert learned_matrix(one_way, run(), round=1)[1] == pytest.approx([2 / 3, 1 / 3, 0])
    assert learned_matrix(pairs, run(), round=5) == pytest.approx(np.eye(3))
    assert learned_matrix(pairs, run(), round=6) == pytest.approx(np.eye(3))


def test_the_transfer_matrix_says_who_is_in_whom_at_the_end() -> None:
    """Two rounds of A: the first round's offsets pass A twice, the second's once."""
    matrix = np.array([[0.5, 0.5], [0.0, 1.0]])
    assert transfer_of([matrix, matrix]) == pytest.approx((matrix @ matrix + matrix) / 2)
    assert transfer_of([matrix, np.eye(2)]) == pytest.approx((matrix + np.eye(2)) / 2)


def evidence_of(matrix: Matrix) -> Callable[[Federation, Track, Track], Matrix]:
    return lambda _federation, _before, _after: matrix


def test_without_evidence_nothing_crosses_and_each_round_adds_to_the_mean(build: Build) -> None:
    federation = build()
    *_, state = states_of(cdtl_learned(evidence_of(-np.ones((3, 3)))), federation)
    assert all(matrix.tolist() == np.eye(3).tolist() for matrix in state.matrices)
    assert len(state.evidence) == len(state.matrices) == 3
    under = federation.under(settings_of("annealed"))
    track = begin(under)
    for _ in range(3):
        track = unblended_round(under, track)
    for group, offset in track.server.offsets.items():
        assert all(value.equal(state.track.server.offsets[group][name]) for name, value in offset.items())


def test_donors_follow_the_mean_of_all_evidence_so_far(build: Build) -> None:
    """Good by 3 in the first round and bad by 1 in the second, a donor still is good by 1 on the whole."""

    def evidence(_federation: Federation, before: Track, _after: Track) -> Matrix:
        return np.full((3, 3), 3.0 if before.server.round == 0 else -1.0)

    first, second, third, _ = states_of(cdtl_learned(evidence), build(federation={"rounds": 4}, blend={"settle": 0}))
    assert (second.matrices[1] > 0).all()
    assert [matrix[0, 0] for matrix in third.evidence] == [3.0, -1.0, -1.0]
    assert len(first.matrices) == 1


def test_the_settings_limit_whom_the_evidence_may_choose(build: Build) -> None:
    federation = build(blend={"donors": {"histology": ["ultrasound"], "ultrasound": []}})
    first, *_ = states_of(cdtl_learned(evidence_of(np.ones((3, 3)))), federation)
    assert list(first.track.server.offsets) == ["histology", "mammography", "ultrasound"]
    found = first.matrices[0]
    assert (found > 0).tolist() == [[True, False, True], [True, True, True], [False, False, True]]


def test_cosines_of_updates_are_those_of_what_was_learned_in_the_round(build: Build) -> None:
    federation = build().under(settings_of("annealed"))
    before = unblended_round(federation, begin(federation))
    after = unblended_round(federation, before)
    found = update_cosines(federation, before, after)
    assert np.diag(found) == pytest.approx(1)
    assert found == pytest.approx(found.T)

    def moved(group: str) -> np.ndarray:  # type: ignore[type-arg]
        one, two = after.server.offsets[group], before.server.offsets[group]
        names = [name for name in one if not name.startswith("head.")]
        return np.concatenate([(one[name].double() - two[name].double()).flatten().numpy() for name in names])

    a, b = moved("histology"), moved("ultrasound")
    assert found[0, 2] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize(("other", "cosine"), [([0.0, 2.0], 0.0), ([3.0, 4.0], 0.6), ([1.0, 2.0, 3.0], 0.0)])
def test_where_heads_alone_are_trained_their_cosines_count_if_they_are_of_one_label_map(
    build: Build, other: list[float], cosine: float
) -> None:
    federation = build()
    before = begin(federation)
    offsets = {"ultrasound": {"head.weight": torch.tensor([1.0, 0.0])}, "mri": {"head.weight": torch.tensor(other)}}
    after = replace(before, server=replace(before.server, offsets=offsets))
    none = replace(before, server=replace(before.server, offsets={"ultrasound": {}, "mri": {}}))
    assert update_cosines(federation, none, after)[0, 1] == pytest.approx(cosine)


def test_gains_are_nothing_from_oneself_and_finite_from_others(build: Build) -> None:
    federation = build().under(settings_of("annealed"))
    before = begin(federation)
    after = unblended_round(federation, before)
    found = validation_gains(federation, before, after)
    assert np.diag(found).tolist() == [0, 0, 0]
    assert np.isfinite(found).all()
    assert np.abs(found[~np.eye(3, dtype=bool)]).min() > 0


def test_gains_by_hand_where_only_the_heads_bias_speaks(build: Build) -> None:
    """A head of bias (b, -b) says benign with log-odds 2 b whatever the image: its loss is known from the labels."""
    from dataclasses import replace

    federation = build().under(settings_of("annealed"))
    track = begin(federation)
    label = track.server.members[0].label_hash
    biases = {"histology": 5.0, "mammography": 3.0, "ultrasound": 0.0}
    offsets = {group: {f"head.{label}.bias": torch.tensor([b, -b]).half()} for group, b in biases.items()}
    found = validation_gains(federation, track, replace(track, server=replace(track.server, offsets=offsets)))

    def loss(site: str, bias: float) -> float:
        fold = federation.sites[site].cohort.folds["val"]
        by_image = np.log1p(np.exp(np.where(fold.labels == 1, 2 * bias, -2 * bias)))
        return float(np.mean([by_image[fold.patients == patient].mean() for patient in np.unique(fold.patients)]))

    assert found[0] == pytest.approx([0, loss("como", 5) - loss("como", 4), loss("como", 5) - loss("como", 2.5)])
    assert 0 < found[0, 1] < found[0, 2]
    patients = {site: federation.sites[site].cohort.folds["val"].num_patients for site in ("alba", "bari")}
    worse = sum(count * (loss(site, 0) - loss(site, 2.5)) for site, count in patients.items()) / sum(patients.values())
    assert found[2, 0] == pytest.approx(worse)
    assert worse < 0


def test_a_donor_equal_to_the_receiver_gains_nothing(build: Build) -> None:
    from dataclasses import replace

    federation = build().under(settings_of("annealed"))
    after = unblended_round(federation, begin(federation))
    same = dict.fromkeys(after.server.offsets, after.server.offsets["histology"])
    equal = replace(after, server=replace(after.server, offsets=same))
    assert validation_gains(federation, after, equal) == pytest.approx(0, abs=1e-9)
