"""CDTL: own and joint model pooled at the receiver, with a share set by unbiased evidence."""

# mypy: disable-error-code=arg-type

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cdtl_core.data.cohort import Fold
from cdtl_core.federation.evidence import (
    PooledModel,
    deal,
    donor_heads,
    fold,
    mean_of_others,
    on_features,
    out_of_fold,
    pool_models,
    score_model,
)
from cdtl_core.federation.finish import finish
from cdtl_core.simulation.methods.cdtl import cdtl, mean_of_other_heads
from cdtl_core.simulation.methods.fedbn import fedbn
from cdtl_core.simulation.methods.loop import last, play, states_of
from cdtl_core.simulation.methods.method import Federation, federation_of
from tests.stub import STUB

Build = Callable[..., Federation]
HEADS = {
    "model": {"backbone": STUB, "weights": "random", "levels": [2, 3]},
    "train": {"freeze": 3, "views": 1, "steps": 4},
    "blend": {"settle": 0},
}
HEAD = ("head.weight", "head.bias")


@pytest.fixture
def heads(build: Build, tmp_path: Path) -> Federation:
    """A federation that trains heads alone, on features."""
    whole = build(**HEADS)
    sites = [on_features(replace(site, cache=tmp_path), whole.initial_weights) for site in whole.sites.values()]
    return federation_of(sites, {}, whole.config)


def test_on_features_a_federation_ends_with_the_heads_of_whole_networks(build: Build, heads: Federation) -> None:
    whole = build(**HEADS)
    one = play(fedbn(), whole.sites.values(), whole.initial_weights, whole.config)
    two = play(fedbn(), heads.sites.values(), {}, heads.config)
    for site, weights in two.items():
        for name in HEAD:
            torch.testing.assert_close(weights[name], one[site][name], rtol=1e-2, atol=2e-3)
        assert weights["head.weight"].abs().max() > 0.01


def test_folded_heads_say_what_the_two_say(heads: Federation) -> None:
    for name, model in play(cdtl(), heads.sites.values(), {}, heads.config).items():
        assert isinstance(model, PooledModel)
        site = heads.sites[name]
        test = site.cohort.folds["test"]
        np.testing.assert_allclose(score_model(site, fold(model), test), score_model(site, model, test), atol=1e-5)


@pytest.mark.attack("evidence never saw the patients", "receiver's labels turned round")
def test_the_others_heads_do_not_depend_on_the_receivers_patients(heads: Federation) -> None:
    turned = dict(heads.sites)
    alba = turned["alba"]
    folds = {split: replace(one, labels=1 - one.labels) for split, one in alba.cohort.folds.items()}
    turned["alba"] = replace(alba, cohort=replace(alba.cohort, folds=folds))
    found = []
    for sites in (heads.sites, turned):
        federation = federation_of(sites.values(), {}, heads.config)
        found.append(mean_of_other_heads(federation, last(states_of(cdtl(), federation)).own, "alba"))
    assert all(found[0][name].equal(found[1][name]) for name in HEAD)
    assert found[0]["head.weight"].abs().max() > 0


def test_donors_of_the_receivers_modality_are_its_other_sites(heads: Federation) -> None:
    """Sums by modality less the receiver's own part; a modality that holds the receiver alone is no donor."""
    rng = torch.Generator().manual_seed(0)
    one, other, far = ({"head.x.weight": torch.randn(2, 3, generator=rng)} for _ in range(3))
    sums = {
        "ultrasound": (
            {"head.x.weight": 10 * one["head.x.weight"].double() + 30 * other["head.x.weight"].double()},
            40,
        ),
        "mri": ({"head.x.weight": 5 * far["head.x.weight"].double()}, 5),
    }
    found = donor_heads(sums, one, 10, "ultrasound")
    torch.testing.assert_close(found["ultrasound"]["head.weight"], other["head.x.weight"])
    torch.testing.assert_close(found["mri"]["head.weight"], far["head.x.weight"])
    whole = mean_of_others(sums, one, 10)
    assert whole is not None
    weighted = (30 * other["head.x.weight"] + 5 * far["head.x.weight"]) / 35
    torch.testing.assert_close(whole["head.weight"], weighted)
    assert list(donor_heads({"mri": sums["mri"]}, far, 5, "mri")) == []


@pytest.mark.attack("evidence never saw the patients", "test and validation labels turned round")
def test_no_share_of_a_donor_depends_on_patients_that_were_not_trained_on(heads: Federation) -> None:
    rng = np.random.default_rng(0)
    width = heads.sites["alba"].model.head.in_features
    labels = np.arange(24) % 2
    values = (rng.normal(size=(24, 2, width)) + labels[:, None, None]).astype(np.float16)
    train = Fold(values, np.arange(24), labels, np.arange(24))
    alba = heads.sites["alba"]
    own = {"head.weight": torch.ones(2, width), "head.bias": torch.zeros(2)}
    donors = {"mri": {"head.weight": torch.randn(2, width), "head.bias": torch.zeros(2)}}
    found = []
    for turn in (False, True):
        kept = alba.cohort.folds
        folds = {name: replace(kept[name], labels=1 - kept[name].labels) if turn else kept[name] for name in kept}
        site = replace(alba, cohort=replace(alba.cohort, folds={**folds, "train": train}))
        found.append(pool_models(site, own, own, donors["mri"], donors).donors)
    assert found[0] == found[1] != ()


@pytest.mark.attack("evidence never saw the patients", "a patient's images in two folds")
def test_out_of_fold_deals_patients_and_both_labels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        patients = rng.integers(12, size=30)
        labels = (patients % 3 == 0).astype(np.int64)
        found = deal(labels, patients, 5, rng)
        for patient in np.unique(patients):
            assert len(np.unique(found[patients == patient])) == 1


@pytest.mark.attack("evidence never saw the patients", "images without a pattern, labels by chance")
def test_an_own_head_that_learned_by_heart_is_worth_nothing_out_of_fold(heads: Federation) -> None:
    """In its training images a head of many features knows every label; out of fold it must not."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 2, heads.sites["alba"].model.head.in_features)).astype(np.float16)
    labels = rng.permutation(np.arange(40) % 2)
    train = Fold(noise, np.arange(40), labels, np.arange(40))
    site = heads.sites["alba"]
    config = site.config.model_copy(update={"train": site.config.train.model_copy(update={"steps": 40, "lr": 0.01})})
    site = replace(site, config=config, cohort=replace(site.cohort, folds={**site.cohort.folds, "train": train}))
    margins = out_of_fold(site)
    score = margins[:, 1] - margins[:, 0]
    right = np.mean([score[i] > score[j] for i in np.flatnonzero(labels == 1) for j in np.flatnonzero(labels == 0)])
    assert 0.2 < right < 0.8


def test_networks_are_pooled_in_nearly_equal_shares_where_validation_patients_are_few(build: Build) -> None:
    federation = build("alba", "como", federation={"rounds": 1})
    for model in play(cdtl(), federation.sites.values(), federation.initial_weights, federation.config).values():
        assert isinstance(model, PooledModel)
        assert model.pool.num_patients < 5
        assert model.pool.share == pytest.approx(1.0, abs=0.25)
        assert not model.own["head.weight"].equal(model.joint["head.weight"])


def test_a_site_without_others_pools_by_its_validation_patients(heads: Federation) -> None:
    site = heads.sites["alba"]
    weights = {name: value for name, value in site.model.state_dict().items() if value.is_floating_point()}
    own = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in weights.items()
    }
    pool = pool_models(site, own, own).pool
    assert (pool.by, pool.num_patients) == ("evidence", site.cohort.folds["val"].num_patients)


def test_only_the_temperature_of_a_fitted_pool_is_held_near_1(heads: Federation) -> None:
    """Validation patients whose labels contradict every model want the hottest temperature there is."""
    rng = np.random.default_rng(0)
    width, labels = heads.sites["alba"].model.head.in_features, np.arange(24) % 2
    values = (rng.normal(size=(24, 2, width)) + labels[:, None, None]).astype(np.float16)
    train = Fold(values, np.arange(24), labels, np.arange(24))
    turned = replace(train, labels=1 - labels)
    alba = heads.sites["alba"]
    site = replace(alba, cohort=replace(alba.cohort, folds={"train": train, "val": turned, "test": train}))
    model = {"head.weight": torch.stack([-torch.ones(width), torch.ones(width)]), "head.bias": torch.zeros(2)}
    own = {name: value for name, value in site.model.state_dict().items() if value.is_floating_point()} | model
    fitted = finish(site, own, own, model).temperatures
    assert (fitted["own"], fitted["joint"]) == (pytest.approx(10, rel=1e-3), pytest.approx(10, rel=1e-3))
    assert 1 < (fitted["pool"] or 0) < 8
    equal = site.config.model_copy(update={"pool": site.config.pool.model_copy(update={"share": "equal"})})
    unfitted = finish(replace(site, config=equal), own, own, model).temperatures["pool"]
    assert unfitted == pytest.approx(10, rel=1e-3)
