"""Methods that are the product's own algorithm with other settings equal the Flower run bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.evidence import PooledModel
from cdtl_core.inference.model_folder import PoolNote, read_note
from cdtl_core.models.weights import Weights, load_weights
from cdtl_core.simulation.methods.fedprox import fedprox
from cdtl_core.simulation.methods.loop import play, states_of
from cdtl_core.simulation.methods.method import Federation, federation_of
from cdtl_core.simulation.methods.registry import METHODS, method_of
from cdtl_core.simulation.methods.track import Track, received
from cdtl_core.simulation.simulate import simulate
from cdtl_core.site.home import open_site

Build = Callable[..., Federation]


def played(name: str, federation: Federation) -> dict[str, Any]:
    return play(method_of(name), federation.sites.values(), federation.initial_weights, federation.config)


def equal(one: Weights, two: Weights) -> bool:
    return sorted(one) == sorted(two) and all(value.equal(two[name]) for name, value in one.items())


def parts_of_model(model: Weights | PooledModel) -> list[Weights]:
    return [model.own, model.joint] if isinstance(model, PooledModel) else [model]


def all_equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    pairs = [(parts_of_model(one[site]), parts_of_model(two[site])) for site in one]
    return list(one) == list(two) and all(
        equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True)
    )


def test_alone_fedbn_and_cdtl_end_with_the_models_of_the_flower_run(
    tiny: Callable[..., SimulationConfig], tmp_path: Path
) -> None:
    """Also CDTL: its own, its joint model and their pool are those that the Flower run leaves at each site."""
    from cdtl_core.models.initial_weights import build_initial_weights

    config = tiny(
        methods=("alone", "fedbn", "cdtl"),
        train={"steps": 2, "batch_size": 4, "lr": 0.005},
    )
    simulate(config, tmp_path / "run")
    homes = sorted((tmp_path / "run" / "sites").iterdir())
    initial_weights = build_initial_weights(config.run.model, config.run.seed, config.run.image.size)
    federation = federation_of([open_site(home, config.run) for home in homes], initial_weights, config.run)
    for name in ("alone", "fedbn"):
        for site, weights in played(name, federation).items():
            left = load_weights(tmp_path / "run" / "sites" / site / "models" / f"tiny-{name}" / "model.safetensors")
            assert set(left) == set(weights)
            assert all(value.equal(weights[tensor]) for tensor, value in left.items()), (name, site)
    for site, model in played("cdtl", federation).items():
        folder = tmp_path / "run" / "sites" / site / "models" / "tiny-cdtl"
        assert equal(load_weights(folder / "own.safetensors"), model.own)
        assert equal(load_weights(folder / "joint.safetensors"), model.joint)
        assert read_note(folder / "model.json").pool == PoolNote.of(model.pool)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_site_gets_a_whole_finite_classifier_whatever_the_order_of_the_sites(build: Build, name: str) -> None:
    federation = build("alba", "bari", "como", "diso", federation={"rounds": 2}, train={"steps": 1})
    state = federation.sites["alba"].model.state_dict()
    first = played(name, federation)
    assert list(first) == ["alba", "bari", "como", "diso"]
    for weights in (part for model in first.values() for part in parts_of_model(model)):
        assert sorted(weights) == sorted(key for key, value in state.items() if value.is_floating_point())
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())
        assert weights["head.weight"].abs().max() > 0
    backwards = federation_of(reversed(federation.sites.values()), federation.initial_weights, federation.config)  # type: ignore[call-overload]
    assert all_equal(played(name, backwards), first)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"pooled"}))
def test_a_site_of_other_labels_takes_part_in_every_method_with_a_head_of_its_own(build: Build, name: str) -> None:
    sites = build("alba", "como", "diso", federation={"rounds": 2}, train={"steps": 1})
    apart = sites.sites["diso"]
    apart = replace(apart, cohort=replace(apart.cohort, labels=("healthy", "malignant")))
    federation = federation_of([sites.sites["alba"], sites.sites["como"], apart], sites.initial_weights, sites.config)
    found = played(name, federation)
    assert all(bool(torch.isfinite(value).all()) for value in found["diso"].values())  # never a pool
    (alba, *_) = parts_of_model(found["alba"])
    assert not found["diso"]["head.weight"].equal(alba["head.weight"])
    if name in {"fedavg", "fedbn", "fedcross"}:
        assert found["alba"]["head.weight"].equal(found["como"]["head.weight"])
        whole = played(name, sites)
        assert whole["alba"]["head.weight"].equal(whole["diso"]["head.weight"])


def test_the_policies_of_cdtl_blend_otherwise_and_as_configured(build: Build) -> None:
    federation = build(blend={"policy": "fixed", "alpha": 0.5})
    names = ("cdtl_blend", "cdtl_fixed", "cdtl_retention", "cdtl_annealed")
    found = {name: played(name, federation) for name in names}
    assert all_equal(found["cdtl_blend"], found["cdtl_fixed"])
    for name in ("cdtl_retention", "cdtl_annealed"):
        assert not all_equal(found["cdtl_blend"], found[name])


def test_fedprox_without_a_pull_is_fedbn_to_the_last_bit(build: Build) -> None:
    federation = build()
    without = play(fedprox(mu=0.0), federation.sites.values(), federation.initial_weights, federation.config)
    assert all_equal(without, played("fedbn", federation))


def test_fedprox_stays_nearer_to_what_it_received_the_harder_it_pulls(build: Build) -> None:
    federation = build(federation={"rounds": 1}, train={"steps": 6})
    moved = []
    for mu in (0.0, 1.0, 100.0):
        (track,) = states_of(fedprox(mu), federation)
        moved.append(sum(float(value.float().square().sum()) for value in track.server.offsets["histology"].values()))
    assert moved[0] > moved[1] > moved[2] > 0


def test_a_head_never_leaves_under_fedper_and_the_base_is_the_same_everywhere(build: Build) -> None:
    *_, track = states_of(method_of("fedper"), build())
    federation = build().under({"method": "fedbn", "share": {"head": False}})
    assert not [name for offset in track.server.offsets.values() for name in offset if name.startswith("head.")]
    starts = {site: received(federation, track, site) for site in federation.sites}
    for name, value in starts["alba"].items():
        same = [weights[name].equal(value) for site, weights in starts.items() if site != "alba"]
        assert all(same) if not name.startswith("head.") else not any(same), name


def test_fedper_moves_the_base_by_the_patient_weighted_mean_of_the_sites(build: Build) -> None:
    """By hand from what each site would have sent in the first round, where all start from initial_weights."""
    from cdtl_core.simulation.methods.track import begin, train_sites

    federation = build(federation={"rounds": 1}).under({"method": "fedbn", "share": {"head": False}})
    _, updates = train_sites(federation, begin(federation))
    patients = {member.site: member.num_patients for member in federation.members}
    (track,) = states_of(method_of("fedper"), federation)
    for name, offset in track.server.offsets["histology"].items():
        total = sum(patients[u.site] * u.delta[name].double() for u in updates)
        expected = total / sum(patients.values())
        assert offset.numpy() == pytest.approx(expected.half().numpy(), abs=1e-6, rel=1e-3)


def test_a_state_is_a_value_from_which_a_run_can_go_on(build: Build) -> None:
    federation, method = build(), method_of("cdtl_blend")
    states: list[Track] = list(states_of(method, federation))
    again = method.round(federation, method.round(federation, states[0]))
    assert all(
        equal(method.model_of(federation, again, site), method.model_of(federation, states[-1], site))  # type: ignore[arg-type]
        for site in federation.sites
    )
    assert [state.server.round for state in states] == [1, 2, 3]


def test_a_federation_holds_one_truth_about_its_settings(build: Build) -> None:
    federation = build().under({"train": {"steps": 5}, "seed": 3})
    assert federation.config.train.batch_size == 4
    assert {site.config.train.steps for site in federation.sites.values()} == {5}
    assert {site.config.seed for site in federation.sites.values()} == {3}
    assert np.all([member.num_patients > 0 for member in federation.members])
    with pytest.raises(FederationError, match="2 sites have 1 names"):
        federation_of([federation.sites["alba"]] * 2, federation.initial_weights, federation.config)


def test_a_private_run_is_refused_since_nothing_here_would_keep_it_private(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"set dp\.enabled = false"):
        build("alba", dp={"enabled": True})


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'fedmagic' is unknown: use one of alone"):
        method_of("fedmagic")
