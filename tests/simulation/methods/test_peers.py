"""FedAMP and FedCross: one model per site, mixed by a matrix over sites."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cdtl_core.federation.blend import blend
from cdtl_core.simulation.methods.alone import alone
from cdtl_core.simulation.methods.fedamp import attention, distances, fedamp
from cdtl_core.simulation.methods.fedcross import cosines, cross_matrix, dispatch, fedcross
from cdtl_core.simulation.methods.loop import play, states_of
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.peers import begin_peers, received_peer, train_peers
from cdtl_core.training.objective import Proximal

Build = Callable[..., Federation]


def model(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def test_attention_by_hand() -> None:
    """Three models on a line at 0, 1 and 3, sigma 4, others 0.5: xi_ij = 0.25 exp(-d / 4)."""
    squared = distances({"a": model(0, 0), "b": model(1, 0), "c": model(3, 0)})
    assert squared.tolist() == [[0, 1, 9], [1, 0, 4], [9, 4, 0]]
    xi = attention(squared, 0.5, 4.0)
    near, far, middle = (0.25 * math.exp(-d / 4) for d in (1, 9, 4))
    assert xi[0].tolist() == pytest.approx([1 - near - far, near, far])
    assert xi[1].tolist() == pytest.approx([near, 1 - near - middle, middle])
    assert xi == pytest.approx(xi.T)
    assert xi.sum(axis=1).tolist() == pytest.approx([1, 1, 1])


def test_attention_weighs_equal_models_equally_and_far_ones_not_at_all() -> None:
    assert attention(np.zeros((3, 3)), 0.5, 1.0).tolist() == [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]
    far = np.full((3, 3), 1e6) - 1e6 * np.eye(3)
    assert attention(far, 0.5, 1.0) == pytest.approx(np.eye(3))
    assert attention(np.zeros((1, 1)), 0.5, None).tolist() == [[1.0]]


def test_without_a_width_the_median_distance_is_one() -> None:
    squared = np.array([[0.0, 8.0], [8.0, 0.0]])
    assert attention(squared, 0.5, None)[0, 1] == pytest.approx(0.5 * math.exp(-1))


def test_the_cloud_models_of_two_sites_by_hand() -> None:
    models = {"a": model(1, 0), "b": model(0, 1)}
    clouds = blend(models, attention(distances(models), 0.5, 2.0))
    share = 0.5 * math.exp(-1)
    assert clouds["a"]["w"].tolist() == pytest.approx([1 - share, share])
    assert clouds["b"]["w"].tolist() == pytest.approx([share, 1 - share])


def test_fedamp_without_a_pull_is_training_alone_to_the_last_bit(build: Build) -> None:
    """With local heads, since a head that travels is rounded to float16 and one that stays is not."""
    federation = build(share={"head": False})
    found = [
        play(m, federation.sites.values(), federation.initial_weights, federation.config)
        for m in (fedamp(pull=0.0), alone(), fedamp(pull=10.0))
    ]
    for site, weights in found[0].items():
        assert all(value.equal(found[1][site][name]) for name, value in weights.items())
        assert not all(value.equal(found[2][site][name]) for name, value in weights.items())


def test_the_second_round_of_fedamp_is_held_to_the_clouds_of_the_first(build: Build) -> None:
    federation = build("alba", "como", "diso", federation={"rounds": 2})
    first, second = states_of(fedamp(pull=2.0), federation)
    squared = distances(first.offsets)
    clouds = blend(first.offsets, attention(squared, 0.5, float(np.median(squared[squared > 0]))))
    again = train_peers(
        federation,
        first,
        first.offsets,
        lambda site: Proximal(2.0, received_peer(federation, first, site, clouds[site])),
    )
    for site, offset in again.offsets.items():
        assert all(value.equal(second.offsets[site][name]) for name, value in offset.items())


def test_fedamp_draws_the_models_together(build: Build) -> None:
    spread = []
    for pull in (0.0, 10.0):
        *_, state = states_of(fedamp(pull=pull), build(train={"steps": 6}))
        spread.append(distances(state.offsets).sum())
    assert spread[1] < spread[0]


@pytest.mark.parametrize("selection", ["lowest", "in_order"])
def test_every_row_of_a_crossing_has_exactly_one_collaborator(selection: str) -> None:
    rng = np.random.default_rng(0)
    for round in range(7):
        matrix = cross_matrix(rng.uniform(-1, 1, (4, 4)), 0.99, selection, round=round)  # type: ignore[arg-type]
        assert np.diag(matrix).tolist() == [0.99] * 4
        assert (np.count_nonzero(matrix, axis=1) == 2).all()
        assert matrix.sum(axis=1) == pytest.approx(1)


def test_the_collaborator_is_the_least_similar_or_the_next_in_turn() -> None:
    similarity = cosines({"a": model(1, 0), "b": model(1, 1), "c": model(-1, 0.5)})
    assert similarity[0].tolist() == pytest.approx([1, math.sqrt(0.5), -1 / math.sqrt(1.25)])
    lowest = cross_matrix(similarity, 0.9, "lowest", round=0)
    assert lowest == pytest.approx(np.array([[0.9, 0, 0.1], [0, 0.9, 0.1], [0.1, 0, 0.9]]))
    first, second, third = (cross_matrix(similarity, 0.9, "in_order", round=r) for r in range(3))
    assert first == pytest.approx(np.array([[0.9, 0.1, 0], [0, 0.9, 0.1], [0.1, 0, 0.9]]))
    assert second == pytest.approx(np.array([[0.9, 0, 0.1], [0.1, 0.9, 0], [0, 0.1, 0.9]]))
    assert third.tolist() == first.tolist()
    assert cross_matrix(np.ones((1, 1)), 0.9, "lowest", round=0).tolist() == [[1.0]]


def test_each_site_trains_another_model_each_round_and_each_model_has_one_site() -> None:
    names, seen = ["a", "b", "c", "d"], set()
    for round in range(12):
        seats = dispatch(names, 0, round)
        assert sorted(seats) == sorted(seats.values()) == names
        assert dispatch(names, 0, round) == seats
        seen.add(tuple(seats.values()))
    assert len(seen) > 6


def test_one_round_of_fedcross_by_hand(build: Build) -> None:
    """All start from the initial weights: site s trains them, and its model is crossed with the least similar one."""
    federation = build("alba", "como", federation={"rounds": 1})
    trained = train_peers(federation, begin_peers(federation), {"alba": {}, "como": {}})
    (state,) = states_of(fedcross(alpha=0.9), federation)
    seats = dispatch(["alba", "como"], 0, 0)
    assert seats == {"alba": "como", "como": "alba"}
    for site, name in seats.items():
        other = next(s for s in seats if s != site)
        for tensor, offset in state.offsets[name].items():
            expected = 0.9 * trained.offsets[site][tensor].double() + 0.1 * trained.offsets[other][tensor].double()
            assert offset.numpy() == pytest.approx(expected.half().numpy(), abs=1e-6, rel=2e-3)


def test_in_the_second_round_each_site_trains_the_model_in_its_seat(build: Build) -> None:
    """With nothing crossed, the model trained at a site is what that site was sent plus what it learned."""
    federation = build("alba", "como", "diso", federation={"rounds": 2})
    first, second = states_of(fedcross(alpha=1.0), federation)
    seats = dispatch(["alba", "como", "diso"], 0, 1)
    assert any(site != name for site, name in seats.items())
    trained = train_peers(federation, first, {site: first.offsets[name] for site, name in seats.items()})
    for site, name in seats.items():
        assert all(value.equal(second.offsets[name][tensor]) for tensor, value in trained.offsets[site].items())


def test_all_sites_use_the_mean_of_the_models_with_their_own_norms(build: Build) -> None:
    federation = build()
    *_, state = states_of(fedcross(), federation)
    found = {site: fedcross().model_of(federation, state, site) for site in federation.sites}
    for name in state.offsets["alba"]:
        if name in federation.initial_weights:
            mean = torch.stack([offset[name].double() for offset in state.offsets.values()]).mean(dim=0)
            expected = federation.initial_weights[name] + mean.half().float()
            assert all(weights[name].allclose(expected, atol=1e-6) for weights in found.values())
    norm = next(name for name in found["alba"] if name.endswith("running_mean"))
    assert not found["alba"][norm].equal(found["como"][norm])
