"""FedAvg, which shares norms, and pooled data, which shares images."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import SiteMemory
from cdtl_core.simulation.methods.alone import alone
from cdtl_core.simulation.methods.fedavg import fedavg, share_norms
from cdtl_core.simulation.methods.loop import play, states_of
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.pooled import pool_sites, pooled
from cdtl_core.simulation.methods.track import begin, train_sites

Build = Callable[..., Federation]


def test_norms_become_their_weighted_mean_and_local_heads_stay() -> None:
    memories = {
        "a": SiteMemory(2, {"bn.running_mean": torch.tensor([1.0]), "head.weight": torch.tensor([7.0])}),
        "b": SiteMemory(2, {"bn.running_mean": torch.tensor([5.0])}),
    }
    shared = share_norms(memories, {"a": 30, "b": 10})
    assert shared["a"].local == {"bn.running_mean": torch.tensor([2.0]), "head.weight": torch.tensor([7.0])}
    assert shared["b"].local == {"bn.running_mean": torch.tensor([2.0])}
    assert shared["a"].round == 2


def test_all_sites_end_plain_fedavg_with_one_and_the_same_model(build: Build) -> None:
    federation = build()
    found = play(fedavg(), federation.sites.values(), federation.initial_weights, federation.config)
    for weights in found.values():
        assert all(value.equal(found["alba"][name]) for name, value in weights.items())


def test_one_round_of_plain_fedavg_is_the_patient_weighted_mean_of_every_tensor(build: Build) -> None:
    federation = build(federation={"rounds": 1})
    shared = federation.under({"method": "fedbn"})
    memories, updates = train_sites(shared, begin(shared))
    patients = {member.site: member.num_patients for member in shared.members}
    found = play(fedavg(), federation.sites.values(), federation.initial_weights, federation.config)["como"]
    norms = memories["alba"].local or {}
    assert any(name.endswith("running_var") for name in norms)
    for name in norms:
        total = sum(patients[site] * (memory.local or {})[name].double() for site, memory in memories.items())
        assert found[name].numpy() == pytest.approx((total / sum(patients.values())).numpy(), rel=1e-5, abs=1e-7)
    for name, start in federation.initial_weights.items():
        if name in updates[0].delta:
            total = sum(patients[u.site] * u.delta[name].double() for u in updates) / sum(patients.values())
            assert found[name].numpy() == pytest.approx((start + total).numpy(), abs=1e-4)


def test_pooled_with_one_site_is_training_alone_to_the_last_bit(build: Build) -> None:
    """The same order of batches too: the pooled site's name, which seeds it, is then the site's own."""
    federation = build("como")
    one, two = (
        play(m, federation.sites.values(), federation.initial_weights, federation.config)["como"]
        for m in (pooled(), alone())
    )
    assert all(value.equal(two[name]) for name, value in one.items())


def test_pooling_keeps_every_image_its_label_and_whose_it_is(build: Build) -> None:
    sites = list(build().sites.values())
    together = pool_sites(sites)
    assert together.name == "alba+bari+como+diso"
    assert together.modality == "ultrasound+histology+mammography"
    for split, fold in together.cohort.folds.items():
        parts = [site.cohort.folds[split] for site in sites]
        assert fold.num_images == sum(part.num_images for part in parts)
        assert fold.num_patients == sum(part.num_patients for part in parts)
        assert fold.pixels.shape[1] == 3  # histology has colour
        assert fold.labels.tolist() == [label for part in parts for label in part.labels]
        first = parts[0]
        assert np.array_equal(fold.pixels[0], np.repeat(first.pixels[first.rows[0]], 3, axis=0))
    train, test = together.cohort.folds["train"], together.cohort.folds["test"]
    assert not set(train.patients) & set(test.patients)


def test_pooled_takes_as_many_steps_as_all_sites_and_gives_each_its_own_statistics(build: Build) -> None:
    federation = build(federation={"rounds": 1})
    (state,) = states_of(pooled(), federation)
    assert state.together.config.train.steps == 4 * federation.config.train.steps
    found = {site: pooled().model_of(federation, state, site) for site in federation.sites}
    for name, value in found["alba"].items():
        same = value.equal(found["como"][name])
        assert same is not name.endswith(("running_mean", "running_var")), name


def test_sites_of_other_labels_cannot_be_pooled(build: Build) -> None:
    one, two = list(build("alba", "como").sites.values())
    other = replace(two, cohort=replace(two.cohort, labels=("healthy", "malignant")))
    with pytest.raises(ConfigError, match="2 label maps"):
        pool_sites([one, other])
