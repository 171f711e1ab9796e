"""The audit has power: the intact mechanism passes, each broken one fails."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from cdtl_core.config import RunConfig
from cdtl_core.config.settings import load_run
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.site import Site
from cdtl_core.models.draws import keyed_draws
from cdtl_core.models.weights import load_into, take
from cdtl_core.privacy.mechanism import Grant, without_noise
from cdtl_core.privacy.partial import fit_part
from cdtl_core.simulation.audit.canary_run import Subject, open_subject
from cdtl_core.simulation.audit.faults import Fault, granted
from cdtl_core.simulation.audit.neighbours import STEP_CLAIM, distinguish
from cdtl_core.simulation.audit.run import audit, audit_membership, audited_terms, phantom_config, phantom_site
from cdtl_core.system.shipped import find_config
from tests.tables import Tries


def small() -> RunConfig:
    """A network and a number of rounds for a test."""
    run = phantom_config().model_dump()
    run["image"]["size"] = 32
    run["model"] |= {"backbone": "test_efficientnet", "weights": "random", "levels": (3, 4, 5, 6, 7)}
    run["federation"]["rounds"] = 140
    run["dp"] |= {"target_epsilon": 2.0, "centre_steps": 20, "max_grad_norm": 0.01, "lr": 0.2}
    run["train"]["steps"] = 1
    return RunConfig.model_validate(run)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return phantom_site(tmp_path_factory.mktemp("site"), small())


@pytest.fixture(scope="module")
def subject(site: Site) -> Subject:
    return open_subject(site)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("broken", list(Fault))
def test_the_whole_mechanism_passes_and_each_broken_one_fails(subject: Subject, broken: Fault) -> None:
    found = audit(subject, canaries=150, seed=0, broken=broken)
    assert found.claim == pytest.approx(2.0, abs=0.01)
    assert found.guesses == 100
    assert found.as_expected, found
    if broken in {Fault.NOISE, Fault.CLIP}:
        assert found.correct >= 98
    assert found.step.refuted == (broken is Fault.DRAWS)


@pytest.mark.attack("A private step leaks no more than the ledger says", "tell a patient in from out, draws known")
def test_who_knows_the_secret_of_the_draws_learns_no_more_than_is_claimed(subject: Subject, tries: Tries) -> None:
    tries.add(200)
    found = distinguish(subject, repeats=100, seed=0, draws=keyed_draws(bytes(32)))
    assert found.bound <= STEP_CLAIM
    # She moves the head's weights by nearly the clipping norm, which bounds weights and bias together.
    assert 0.95 * found.most < found.separation <= found.most


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject(phantom_site(tmp_path_factory.mktemp("phantoms"), phantom_config()))


@pytest.mark.slow
@pytest.mark.parametrize("broken", [pytest.param(one, marks=[pytest.mark.ci] * (one is Fault.NONE)) for one in Fault])
def test_the_shipped_audit_tells_whole_from_broken_with_room_to_spare(phantoms: Subject, broken: Fault) -> None:
    found = audit(phantoms, canaries=1500, seed=100, broken=broken)
    assert found.as_expected
    if broken is Fault.NONE:
        assert 0 < found.bound < found.claim - 0.5
    elif broken is not Fault.DRAWS:
        assert found.bound > found.claim + 0.5


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The settings of configs/private.toml on synthetic patients, at a claim that guesses can refute.

    Their clip is hardly shorter than the longest gradient, and a restarting accountant forgets little in 4 rounds:
    a shorter clip and more rounds let both faults show.
    """
    config = audited_terms(load_run(find_config(Path("private"))), 1.0)
    config = config.model_copy(
        update={
            "dp": config.dp.model_copy(update={"max_grad_norm": 0.01}),
            "train": config.train.model_copy(update={"steps": 2}),
            "federation": config.federation.model_copy(update={"rounds": 80}),
        }
    )
    return open_subject(phantom_site(tmp_path_factory.mktemp("shipped"), config))


@pytest.mark.slow
@pytest.mark.attack("The audit finds a broken mechanism", "break one part of configs/private.toml")
@pytest.mark.parametrize("broken", list(Fault))
def test_the_audit_of_the_shipped_settings_tells_whole_from_broken(shipped: Subject, broken: Fault) -> None:
    found = audit(shipped, canaries=200, seed=0, broken=broken)
    assert found.as_expected, found


def test_the_ledger_is_committed_round_by_round(tmp_path: Path) -> None:
    config = small()
    turns = list(granted(config, 100, tmp_path, Fault.NONE))
    assert [turn.grant.steps for turn in turns] == [20] + [1] * 140
    assert [turn.centres for turn in turns] == [True] + [False] * 140
    assert {turn.grant.mechanism for turn in turns} == {turns[0].claimed}
    lines = (tmp_path / "ledger.jsonl").read_text()
    assert (lines.count('"reservation"'), lines.count('"commitment"')) == (141, 141)


def test_what_is_broken_is_only_what_its_name_says(tmp_path: Path) -> None:
    for broken in (Fault.NOISE, Fault.CLIP, Fault.ACCOUNTANT):
        _, turn = islice(granted(small(), 100, tmp_path / broken, broken), 2)
        given, claimed = turn.grant.mechanism, turn.claimed
        same_noise = given.noise_multiplier * given.max_grad_norm == pytest.approx(
            claimed.noise_multiplier * claimed.max_grad_norm
        )
        assert same_noise == (broken is not Fault.NOISE)
        assert (given.max_grad_norm == claimed.max_grad_norm) == (broken is not Fault.CLIP)
        assert given.sample_rate == claimed.sample_rate


@pytest.mark.slow
@pytest.mark.ci
def test_members_show_more_without_privacy_than_with_it(subject: Subject) -> None:
    private = audit_membership(subject, seed=0, private=True)
    assert (private.members, private.others) == (150, 100)
    assert private.auroc.low < 0.5 < private.auroc.high
    assert audit_membership(subject, seed=0, private=False).auroc.value > 0.5


def test_a_part_of_the_backbone_is_refused(tmp_path: Path) -> None:
    config = small()
    config = config.model_copy(update={"dp": config.dp.model_copy(update={"stages": 1})})
    with pytest.raises(ConfigError, match=r"dp\.stages"):
        open_subject(phantom_site(tmp_path, config))


def test_a_claim_must_be_one(subject: Subject) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        audited_terms(small(), 0.0)
    site = subject.site
    dp = site.config.dp.model_copy(update={"target_delta": 0.01})
    loose = Site(**{**site.__dict__, "config": site.config.model_copy(update={"dp": dp})})
    with pytest.raises(PrivacyError, match="target_delta"):
        audit(Subject(loose, subject.features, subject.initial_weights), canaries=50, seed=0)


def test_features_at_hand_change_nothing(subject: Subject) -> None:
    """What the audit hands to `fit_part` is what `fit_part` computes itself."""
    site, model, ends = subject.site, subject.site.model, []
    for features in (None, subject.features):
        zeros = {
            name: torch.zeros_like(model.state_dict()[name]) for name in ("head.weight", "head.bias", "centre.mean")
        }
        load_into(model, {**subject.initial_weights, **zeros})
        grant = Grant(without_noise(150), 23)
        given = {"centred": False, "epoch": 0, "device": site.device, "draws": keyed_draws(bytes(32))}
        fit_part(model, subject.fold, site.config, grant, features=features, **given)  # type: ignore[arg-type]
        ends.append(take(model, zeros))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert ends[0]["head.weight"].norm() > 0
