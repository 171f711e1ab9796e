"""Controls: donors that are the initial weights, trained on shuffled labels, or synthetic and unrelated."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cdtl_core.data.cohort import Fold
from cdtl_core.errors import ConfigError
from cdtl_core.federation.blend import blend
from cdtl_core.simulation.methods.alone import alone
from cdtl_core.simulation.methods.blended import blended, settings_of, unblended_round
from cdtl_core.simulation.methods.donor_initial_weights import blend_with_initial_weights, cdtl_from_initial_weights
from cdtl_core.simulation.methods.donor_phantom import with_phantom_donors
from cdtl_core.simulation.methods.donor_shuffled import donors_of, shuffled_labels, with_shuffled_donors
from cdtl_core.simulation.methods.loop import play, states_of
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.track import advance, begin

Build = Callable[..., Federation]


def test_a_blend_with_initial_weights_is_a_blend_with_zero_offset() -> None:
    offsets = {"a": {"w": torch.tensor([4.0, -2.0])}, "b": {"w": torch.tensor([8.0, 8.0])}}
    matrix = np.array([[0.75, 0.25], [0.0, 1.0]])
    found = blend_with_initial_weights(offsets, matrix)
    assert found["a"]["w"].tolist() == [3.0, -1.5]
    assert found["b"]["w"].tolist() == [8.0, 8.0]
    zeros = {"a": offsets["a"], "b": {"w": torch.zeros(2)}}
    assert found["a"]["w"].equal(blend(zeros, matrix)["a"]["w"])


def test_what_no_donor_holds_stays_whole_in_a_blend_with_initial_weights() -> None:
    """As in a blend with donors: the control differs in the donors' values alone."""
    offsets = {"a": {"w": torch.ones(1), "head.x.bias": torch.ones(1)}, "b": {"w": torch.ones(1)}}
    found = blend_with_initial_weights(offsets, np.array([[0.5, 0.5], [0.5, 0.5]]))
    assert found["a"]["head.x.bias"].tolist() == [1.0]
    assert found["a"]["w"].tolist() == found["b"]["w"].tolist() == [0.5]


def test_the_depth_of_a_blend_with_initial_weights_is_that_of_cdtl() -> None:
    offsets = {name: {f"l{i}": torch.ones(1) for i in range(3)} for name in "ab"}
    found = blend_with_initial_weights(offsets, np.full((2, 2), 0.5), depth="share_early")["a"]
    assert [found[f"l{i}"].item() for i in range(3)] == pytest.approx([0.5, 0.625, 1.0])


def test_a_round_of_the_initial_weights_control_blends_what_cdtl_blends_and_shrinks_it(build: Build) -> None:
    federation = build(blend={"policy": "fixed", "alpha": 0.5, "settle": 0}, federation={"rounds": 1})
    under = federation.under(settings_of(None))
    (control,) = states_of(cdtl_from_initial_weights(), federation)
    real, unblended = advance(under, begin(under)), unblended_round(under, begin(under))
    for group, offset in control.server.offsets.items():
        for name, value in offset.items():
            before = unblended.server.offsets[group][name]
            assert value.equal((0.5 * before.float()).half())
            assert not value.equal(real.server.offsets[group][name]) or not before.abs().max()


def test_where_nothing_crosses_the_control_is_cdtl_to_the_last_bit(build: Build) -> None:
    federation = build(blend={"policy": "fixed", "alpha": 1.0})
    found = [
        play(m, federation.sites.values(), federation.initial_weights, federation.config)
        for m in (blended(), cdtl_from_initial_weights())
    ]
    assert all(value.equal(found[1][site][name]) for site in found[0] for name, value in found[0][site].items())


def test_labels_are_shuffled_by_patient() -> None:
    patients = np.repeat(np.arange(40), 2)
    labels = (patients % 4 == 0).astype(np.int64)
    fold = Fold(np.zeros((80, 1, 2, 2), np.uint8), np.arange(80), labels, patients)
    dealt = shuffled_labels(fold, np.random.default_rng(0))
    assert dealt.sum() == labels.sum()
    assert (dealt != labels).any()
    assert (dealt[::2] == dealt[1::2]).all()  # both images of a patient
    assert dealt.tolist() == shuffled_labels(fold, np.random.default_rng(0)).tolist()


def test_a_patient_with_images_of_two_labels_counts_as_the_higher() -> None:
    fold = Fold(np.zeros((3, 1, 2, 2), np.uint8), np.arange(3), np.array([0, 1, 0]), np.array([5, 5, 9]))
    dealt = [tuple(shuffled_labels(fold, np.random.default_rng(seed)).tolist()) for seed in range(20)]
    assert set(dealt) == {(1, 1, 0), (0, 0, 1)}


def test_shuffling_touches_the_donors_training_labels_and_nothing_else(build: Build) -> None:
    federation = build()
    donors = donors_of(federation, "como")
    assert donors == ("alba", "bari", "diso")
    found = {site.name: site for site in with_shuffled_donors(federation.sites.values(), donors, seed=1)}
    assert found["como"] is federation.sites["como"]
    changed = 0
    for donor in donors:
        before, after = federation.sites[donor].cohort.folds, found[donor].cohort.folds
        assert after["val"] is before["val"]
        assert after["test"] is before["test"]
        assert after["train"].rows is before["train"].rows
        changed += int((after["train"].labels != before["train"].labels).any())
    assert changed == 3


def test_a_receiver_without_donors_never_sees_the_donors_labels(build: Build) -> None:
    federation = build()
    shuffled = with_shuffled_donors(federation.sites.values(), donors_of(federation, "como"), seed=0)
    one = play(alone(), federation.sites.values(), federation.initial_weights, federation.config)
    two = play(alone(), shuffled, federation.initial_weights, federation.config)
    assert all(value.equal(two["como"][name]) for name, value in one["como"].items())
    assert not all(value.equal(two["alba"][name]) for name, value in one["alba"].items())


def test_phantom_donors_stand_in_by_name_and_number(build: Build, tmp_path: Path) -> None:
    federation = build("alba", "como")
    found = {
        site.name: site for site in with_phantom_donors(federation.sites.values(), ["alba"], folder=tmp_path, seed=9)
    }
    assert found["como"] is federation.sites["como"]
    before, after = federation.sites["alba"], found["alba"]
    assert (after.name, after.modality, after.config) == (before.name, before.modality, before.config)
    assert after.cohort.num_patients == before.cohort.num_patients
    assert after.cohort.labels == before.cohort.labels
    assert set(after.cohort.files).isdisjoint(before.cohort.files)
    again = with_phantom_donors(federation.sites.values(), ["alba"], folder=tmp_path, seed=9)
    assert again[0].cohort.files == after.cohort.files
    play(blended(), found.values(), federation.initial_weights, federation.config)


def test_a_federation_of_all_phantom_modalities_has_no_unrelated_one(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = build("alba", "como")
    monkeypatch.setattr("cdtl_core.simulation.methods.donor_phantom.MODALITIES", ("ultrasound", "histology"))
    with pytest.raises(ConfigError, match="every modality that can be synthesised"):
        with_phantom_donors(federation.sites.values(), ["alba"], folder=tmp_path, seed=0)
