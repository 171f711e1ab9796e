"""Ditto and APFL: a personal model next to the global one."""

from collections.abc import Callable, Mapping

import pytest
import torch

from cdtl_core.simulation.methods.alone import alone
from cdtl_core.simulation.methods.apfl import apfl, slope_of, step_share
from cdtl_core.simulation.methods.ditto import ditto
from cdtl_core.simulation.methods.fedbn import fedbn
from cdtl_core.simulation.methods.loop import play, states_of
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import advance, received
from cdtl_core.training.objective import Mixture, Proximal

Build = Callable[..., Federation]
OWN, GLOBAL = {"method": "alone"}, {"method": "fedbn"}


def same(one: Method, two: Method, federation: Federation) -> bool:  # type: ignore[type-arg]
    found = [
        play(method, federation.sites.values(), federation.initial_weights, federation.config) for method in (one, two)
    ]
    return all(value.equal(found[1][site][name]) for site in found[0] for name, value in found[0][site].items())


def test_ditto_without_strength_is_training_alone_to_the_last_bit(build: Build) -> None:
    assert same(ditto(0.0), alone(), build())
    assert not same(ditto(1.0), alone(), build())


def test_ditto_holds_a_personal_model_to_the_global_one_that_the_site_received(build: Build) -> None:
    """Not to the one it then trains, nor to what the server makes of it."""
    federation = build()
    own, shared = federation.under(OWN), federation.under(GLOBAL)
    first, second, _ = states_of(ditto(1.0), federation)
    anchors = {site: received(shared, first.shared, site) for site in federation.sites}
    expected = advance(own, first.personal, lambda site: Proximal(1.0, anchors[site]))
    for site, offset in expected.server.offsets.items():
        assert all(value.equal(second.personal.server.offsets[site][name]) for name, value in offset.items())


def test_the_global_model_of_ditto_is_fedbns_whatever_the_personal_ones_do(build: Build) -> None:
    *_, state = states_of(ditto(1.0), build())
    *_, track = states_of(fedbn(), build())
    for group, offset in track.server.offsets.items():
        assert all(value.equal(state.shared.server.offsets[group][name]) for name, value in offset.items())


def test_ditto_draws_personal_models_to_the_global_one(build: Build) -> None:
    federation, apart = build(train={"steps": 6}), []
    for strength in (0.0, 1.0, 100.0):
        *_, state = states_of(ditto(strength), federation)
        own = received(federation.under(OWN), state.personal, "como")
        shared = received(federation.under(GLOBAL), state.shared, "como")
        apart.append(sum(float((own[name] - shared[name]).square().sum()) for name in own))
    assert apart[0] > apart[1] > apart[2]


def test_the_slope_of_the_share_on_a_model_of_two_parameters() -> None:
    """f(x, y) = (x - 3)^2 + 2 y at alpha 0.25 between v = (2, 1) and w = (-2, 5), hence (-1, 4)."""

    def loss(mixed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (mixed["x"] - 3) ** 2 + 2 * mixed["y"]

    own, other = ({"x": torch.tensor(x), "y": torch.tensor(y)} for x, y in ((2.0, 1.0), (-2.0, 5.0)))
    gradient, difference = (2 * (-1 - 3), 2.0), (2 - -2, 1 - 5)
    slope = slope_of(loss, 0.25, own, other)
    assert slope == pytest.approx(gradient[0] * difference[0] + gradient[1] * difference[1])
    assert slope == pytest.approx(-40.0)
    assert step_share(0.25, slope, 0.01) == pytest.approx(0.65)
    assert step_share(0.25, slope, 1.0) == 1.0
    assert step_share(0.25, -slope, 1.0) == 0.0


def test_a_share_of_one_that_stands_still_is_training_alone_to_the_last_bit(build: Build) -> None:
    assert same(apfl(alpha=1.0, rate=0.0), alone(), build())


def test_the_personal_model_trains_mixed_with_the_global_one_that_the_site_received(build: Build) -> None:
    federation = build()
    own, shared = federation.under(OWN), federation.under(GLOBAL)
    first, second, _ = states_of(apfl(alpha=0.6), federation)
    others = {site: received(shared, first.shared, site) for site in federation.sites}
    expected = advance(own, first.personal, lambda site: Mixture(second.alpha[site], others[site]))
    for site, offset in expected.server.offsets.items():
        assert all(value.equal(second.personal.server.offsets[site][name]) for name, value in offset.items())


def test_a_share_of_none_uses_the_global_model(build: Build) -> None:
    federation = build()
    *_, state = states_of(apfl(alpha=0.0, rate=0.0), federation)
    shared = received(federation.under(GLOBAL), state.shared, "como")
    used = apfl().model_of(federation, state, "como")
    assert all(used[name].equal(value) for name, value in shared.items())


def test_shares_start_equal_and_differ_once_the_models_have(build: Build) -> None:
    first, second, _ = states_of(apfl(alpha=0.5, rate=0.1), build())
    assert set(first.alpha.values()) == {0.5}  # both models are the initial weights: the slope is 0
    assert len(set(second.alpha.values())) == 4
    assert all(0 <= alpha <= 1 for alpha in second.alpha.values())


def test_the_used_model_lies_between_the_personal_and_the_global_one(build: Build) -> None:
    federation = build()
    *_, state = states_of(apfl(alpha=0.7, rate=0.0), federation)
    own = received(federation.under(OWN), state.personal, "como")
    shared = received(federation.under(GLOBAL), state.shared, "como")
    used = apfl().model_of(federation, state, "como")
    for name, value in own.items():
        assert used[name].numpy() == pytest.approx((0.7 * value + 0.3 * shared[name]).numpy(), abs=1e-6)
