"""Arms that exist only in a comparison: their parts, and that none learns from a test patient."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdtl_core.errors import ConfigError
from cdtl_core.federation.evidence import PooledModel, on_features, score_model
from cdtl_core.federation.site import Site
from cdtl_core.simulation.arms import arm_of
from cdtl_core.simulation.folds import scarce_site
from cdtl_core.simulation.methods.alone import alone, alone_ridge
from cdtl_core.simulation.methods.baselines import donors_only
from cdtl_core.simulation.methods.fedavg import fedavg
from cdtl_core.simulation.methods.fedbn import fedbn
from cdtl_core.simulation.methods.fedprox import fedprox
from cdtl_core.simulation.methods.kept import Kept
from cdtl_core.simulation.methods.loop import last, play_in, states_of
from cdtl_core.simulation.methods.method import Federation, federation_of, score_any
from cdtl_core.simulation.methods.own_twice import own_twice
from cdtl_core.simulation.methods.tuned import inner_folds, tuned
from tests.stub import STUB

Build = Callable[..., Federation]
HEADS: dict[str, Any] = {
    "model": {"backbone": STUB, "weights": "random", "levels": [2, 3]},
    "train": {"freeze": 3, "views": 1, "steps": 2},
    "federation": {"rounds": 2},
    "blend": {"settle": 0},
}
ARMS = ("alone", "alone_ridge", "fedavg", "fedbn", "fedbn_tuned", "fedprox", "ditto", "apfl", "fedamp", "fedcross",
        "donors", "ensemble", "cdtl", "cdtl:shuffled", "cdtl:initial", "own_twice", "fedprox:shuffled")  # fmt: skip


@pytest.fixture(scope="module")
def on_heads(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    whole, cache = build(**HEADS), tmp_path_factory.mktemp("cache")
    sites = [on_features(replace(site, cache=cache), whole.initial_weights) for site in whole.sites.values()]
    return federation_of(sites, {}, whole.config, receivers=["alba"])


@pytest.fixture
def heads(on_heads: Federation) -> Federation:
    """Alba receives; heads alone are trained, on features. Nothing is known of what other tests have trained."""
    return replace(on_heads, kept=Kept())


def cut(federation: Federation, *, spoil: bool = False) -> Federation:
    """Alba with six training patients; spoiled: every test patient has the other label, and other features."""
    site = scarce_site(federation.sites["alba"], seed=0, fold=0, folds=3, patients=6)
    if spoil:
        folds = site.cohort.folds
        pixels = folds["test"].pixels.copy()
        pixels[folds["test"].rows] += 1
        other = {split: replace(fold, pixels=pixels) for split, fold in folds.items()}
        other["test"] = replace(other["test"], labels=1 - other["test"].labels)
        site = replace(site, cohort=replace(site.cohort, folds=other))
    return replace(federation.with_site(site), kept=Kept())


def scores(federation: Federation, model: Any, site: Site) -> np.ndarray:
    return score_any(federation.sites["alba"], model, site.cohort.folds["test"])


@pytest.mark.attack("nothing is chosen on test patients", "test labels and images changed under every arm")
@pytest.mark.parametrize("name", ARMS)
def test_other_test_patients_change_no_score(heads: Federation, tmp_path: Path, name: str) -> None:
    found = []
    fair = cut(heads)
    for federation in (fair, cut(heads, spoil=True)):
        model = arm_of(name).play(federation, seed=0, folder=tmp_path)
        found.append(scores(fair, model, fair.sites["alba"]))
    assert np.array_equal(*found)  # type: ignore[arg-type]
    assert np.ptp(found[0]) > 0


def test_the_strength_is_that_of_the_least_loss_on_inner_patients(heads: Federation) -> None:
    """Against a plain loop; a strength that forbids all learning is not chosen where there is something to learn."""
    federation = heads.under({"train": {"steps": 10, "lr": 0.05}})
    values = (1e-4, 1e4)
    losses = []
    for value in values:
        parts = []
        for site, held in inner_folds(federation.sites["alba"]):
            model = play_in(federation.with_site(site), alone_ridge(value))["alba"]
            rows = score_any(site, model, held)[np.arange(held.num_images), held.labels]
            parts += [-rows[held.patients == patient].mean() for patient in np.unique(held.patients)]
        losses.append(np.mean(parts))
    state = last(states_of(tuned(alone_ridge, values), federation))
    assert state.strength == values[int(np.argmin(losses))]
    assert len(parts) == federation.sites["alba"].cohort.folds["train"].num_patients
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_inner_folds_hold_every_training_patient_out_once_and_no_other(heads: Federation) -> None:
    site = heads.sites["alba"]
    train = site.cohort.folds["train"]
    held = []
    for inner, fold in inner_folds(site):
        kept = set(inner.cohort.folds["train"].patients.tolist())
        assert not kept & set(fold.patients.tolist())
        assert inner.cohort.folds["val"] is site.cohort.folds["val"]
        held += fold.patients.tolist()
    assert sorted(held) == sorted(train.patients.tolist())


def test_a_strength_of_one_value_is_the_method_itself(heads: Federation) -> None:
    one = play_in(heads, tuned(fedprox, (0.1,)))["alba"]
    two = play_in(heads, fedprox(0.1))["alba"]
    assert all(value.equal(two[name]) for name, value in one.items())
    with pytest.raises(ConfigError, match="one receiver"):
        play_in(replace(heads, receivers=("alba", "bari")), tuned(fedprox, (0.1,)))


def test_ridge_without_strength_is_alone_and_with_much_of_it_stays_at_the_start(build: Build) -> None:
    federation = build("alba")
    one, two, held = (play_in(federation, method)["alba"] for method in (alone(), alone_ridge(0.0), alone_ridge(1e4)))
    assert all(value.equal(two[name]) for name, value in one.items())
    assert held["head.weight"].abs().max() < one["head.weight"].abs().max()


def test_an_ensemble_gives_the_mean_of_both_probabilities(heads: Federation, tmp_path: Path) -> None:
    model = arm_of("ensemble").play(heads, seed=0, folder=tmp_path)
    site = heads.sites["alba"]
    test = site.cohort.folds["test"]
    parts = [
        play_in(federation, method)["alba"]
        for federation, method in ((heads.only(["alba"]), alone()), (heads, fedavg()))
    ]
    mean = np.mean([np.exp(score_model(site, part, test)) for part in parts], axis=0)  # type: ignore[arg-type]
    assert np.exp(score_any(site, model, test)) == pytest.approx(mean)


@pytest.mark.parametrize("names", [["bari", "como", "diso"], ["como"]])
def test_the_donors_model_never_saw_the_receiver(heads: Federation, names: list[str]) -> None:
    """Other labels at the receiver change nothing; with one donor it is that donor's own head."""
    federation = heads.only(["alba", *names])
    found = play_in(federation, donors_only())["alba"]
    site = federation.sites["alba"]
    folds = {split: replace(fold, labels=1 - fold.labels) for split, fold in site.cohort.folds.items()}
    turned = federation.with_site(replace(site, cohort=replace(site.cohort, folds=folds)))
    assert all(value.equal(found[name]) for name, value in play_in(turned, donors_only())["alba"].items())
    others = replace(federation.only(names), receivers=tuple(names))
    joint = play_in(others, fedbn())[names[0]]
    torch.testing.assert_close(found["head.weight"], joint["head.weight"], rtol=1e-3, atol=1e-5)
    assert found["head.weight"].abs().max() > 0
    assert not found["centre.mean"].equal(joint["centre.mean"])


def test_donors_alone_need_donors(heads: Federation) -> None:
    with pytest.raises(ConfigError, match="no other site"):
        play_in(heads.only(["alba"]), donors_only())


def test_two_own_models_differ_in_their_seed_and_are_pooled_by_evidence(heads: Federation) -> None:
    federation = heads.only(["alba"])
    model = play_in(federation, own_twice())["alba"]
    assert isinstance(model, PooledModel)
    own = play_in(federation, alone())["alba"]
    assert all(value.equal(model.own[name]) for name, value in own.items())
    assert not model.joint["head.weight"].equal(model.own["head.weight"])


def test_donors_at_the_initial_weights_draw_the_joint_model_back(heads: Federation, tmp_path: Path) -> None:
    """By hand for one round: the receiver's share of the patients is what is left of its update."""
    federation = heads.under({"federation": {"rounds": 1}})
    counts = {name: site.cohort.folds["train"].num_patients for name, site in federation.sites.items()}
    own = play_in(federation.only(["alba"]), alone())["alba"]["head.weight"]
    found = arm_of("fedbn:initial").play(federation, seed=0, folder=tmp_path)
    share = counts["alba"] / sum(counts.values())
    torch.testing.assert_close(found["head.weight"], share * own, rtol=2e-3, atol=1e-5)
    two = arm_of("fedbn:initial").play(heads, seed=0, folder=tmp_path)["head.weight"]
    assert two.abs().max() < own.abs().max()


def test_shuffled_donors_are_all_of_the_set_also_those_of_the_receivers_modality(
    heads: Federation, tmp_path: Path
) -> None:
    """And the receiver's own labels stay: by itself it learns the same."""
    for donor in ("bari", "como"):
        membership = heads.only(["alba", donor])
        fair, dealt = (arm_of(name).play(membership, seed=0, folder=tmp_path) for name in ("donors", "donors:shuffled"))
        assert not fair["head.weight"].equal(dealt["head.weight"]), donor
    model = arm_of("cdtl:shuffled").play(heads, seed=0, folder=tmp_path)
    own = play_in(heads.only(["alba"]), alone())["alba"]
    assert isinstance(model, PooledModel)
    assert all(value.equal(model.own[name]) for name, value in own.items())


def test_fedbn_tuned_goes_on_from_the_joint_model_at_the_receiver(heads: Federation, tmp_path: Path) -> None:
    joint = play_in(heads, fedbn())["alba"]["head.weight"]
    tuned_on = arm_of("fedbn_tuned").play(heads, seed=0, folder=tmp_path)["head.weight"]
    assert not tuned_on.equal(joint)
    still = heads.under({"train": {"lr": 1e-12}})
    one, two = (arm_of(name).play(still, seed=0, folder=tmp_path)["head.weight"] for name in ("fedbn", "fedbn_tuned"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
