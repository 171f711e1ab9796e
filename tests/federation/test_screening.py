"""Hostile and broken sites: refusals, the record of them, and unchanged honest rounds."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.config import BlendConfig, RunConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.aggregate import robust_mean, spooled
from cdtl_core.federation.checkpoint import load_latest, save_checkpoint
from cdtl_core.federation.round import close_round, robust_notes, step
from cdtl_core.federation.screening import miss, open_screening, refuse, running_median, screen
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, Member, start

FIVE = [Member(site, "ultrasound", 10, "L") for site in "abcd"] + [Member("e", "mri", 10, "L")]


def config(**aggregate: object) -> RunConfig:
    return RunConfig.model_validate(
        {"method": "fedbn", "federation": {"rounds": 9}, "aggregate": {"norm_bound": 4.0, **aggregate}}
    )


def delta(value: float, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {"w": (value * (1 + torch.rand(8, generator=rng) / 4)).half()}


def update(site: str, value: float, round: int = 1) -> SiteUpdate:
    return SiteUpdate(site, round, delta(value, ord(site) * 100 + round), {"val_loss": 1.0})


def played(state: CoordinatorState, values: dict[str, float], run: RunConfig) -> CoordinatorState:
    return step(state, [update(site, value, state.round + 1) for site, value in values.items()], run)[0]


HONEST = dict.fromkeys("abcde", 1.0)


@pytest.mark.parametrize("bad", [-100.0, 5.0, 60000.0, float("nan"), float("inf")])
def test_what_is_too_long_or_not_finite_counts_nowhere_in_any_round_and_is_named(bad: float) -> None:
    nothing_crosses = {"method": "cdtl", "blend": BlendConfig(policy="fixed", alpha=1.0)}
    run, without = config().model_copy(update=nothing_crosses), [member for member in FIVE if member.site != "b"]
    for rounds in (0, 2):
        state, clean = start(FIVE, run), start(without, run)
        for _ in range(rounds):
            state = played(state, HONEST, run)
            clean = played(clean, dict.fromkeys("acde", 1.0), run)
        after, report = step(state, [update(s, {**HONEST, "b": bad}[s], state.round + 1) for s in HONEST], run)
        assert list(report.refused) == ["b"]
        assert "not finite" in report.refused["b"] or "times the usual norm" in report.refused["b"]
        if not rounds:
            expected, _ = step(clean, [update(s, 1.0, 1) for s in "acde"], run)
            assert all(after.offsets[g]["w"].equal(expected.offsets[g]["w"]) for g in expected.offsets)


def test_the_bound_of_the_first_round_does_not_depend_on_the_order_of_replies() -> None:
    run, values = config(), {**HONEST, "b": 50.0}
    results = []
    for order in itertools.permutations(values):
        state, report = step(start(FIVE, run), [update(site, values[site]) for site in order], run)
        results.append((tuple(report.refused), tuple(state.offsets["ultrasound"]["w"].tolist()), str(state.records)))
    assert len(set(results)) == 1


def test_alone_no_update_is_too_long_since_it_reaches_no_other_site_but_it_must_be_finite() -> None:
    run = config().model_copy(update={"method": "alone"})
    state = played(start(FIVE, run), {**HONEST, "b": 0.01}, run)
    after, report = step(state, [update(s, {**HONEST, "b": 100.0, "c": float("nan")}[s], 2) for s in HONEST], run)
    assert list(report.refused) == ["c"]
    assert after.offsets["b"]["w"].equal((delta(0.01, 9801)["w"].double() + delta(100.0, 9802)["w"].double()).half())


def test_when_all_updates_grow_at_once_the_run_has_changed_and_no_site_is_refused() -> None:
    """As after a first round of one step, in which a head of zeros gives the backbone no gradient."""
    run = config()
    for order in itertools.permutations(HONEST):
        state = played(start(FIVE, run), dict.fromkeys(HONEST, 0.01), run)
        _, report = step(state, [update(s, {**HONEST, "b": 20.0}[s], 2) for s in order], run)
        assert list(report.refused) == ["b"]


def test_a_liar_of_three_is_refused_in_every_round_though_two_sites_alone_have_a_past() -> None:
    run, three = config(strikes=0), FIVE[:3]
    state = start(three, run)
    for _ in range(4):
        updates = [
            update("a", 1.0, state.round + 1),
            update("c", 900.0, state.round + 1),
            update("b", 1.0, state.round + 1),
        ]
        state, report = step(state, updates, run)
        assert list(report.refused) == ["c"]


def test_an_update_of_an_earlier_round_sent_again_under_a_new_number_is_refused() -> None:
    run = config()
    state = played(start(FIVE, run), HONEST, run)
    old = SiteUpdate("c", 2, delta(1.0, ord("c") * 100 + 1), {})
    _, report = step(state, [update("a", 1.0, 2), old], run)
    assert "sent in an earlier round" in report.refused["c"]


def test_zeros_may_be_sent_again() -> None:
    run = config()
    state = played(start(FIVE, run), {**HONEST, "c": 0.0}, run)
    _, report = step(state, [update("a", 1.0, 2), update("c", 0.0, 2)], run)
    assert report.refused == {}


def test_a_site_refused_twice_is_quarantined_with_the_reason_and_stays_so_after_a_resume(tmp_path: Path) -> None:
    run = config()
    state = start(FIVE, run)
    for _ in range(2):
        state = played(state, {**HONEST, "b": float("nan")}, run)
    save_checkpoint(tmp_path, state)
    resumed, _ = load_latest(tmp_path)
    assert resumed is not None
    assert resumed.records == state.records
    _after, report = step(resumed, [update(site, 1.0, 3) for site in "abcde"], run)
    assert report.refused["b"].startswith("quarantined since round 2: an update has values in 'w' that are not finite")
    assert "b" not in report.updated
    assert "b" not in report.absent
    never = config(strikes=0)
    state = start(FIVE, never)
    for _ in range(3):
        state = played(state, {**HONEST, "b": float("nan")}, never)
    assert state.records["b"].quarantined == ""


def test_what_cannot_be_read_counts_as_a_strike_and_what_did_not_come_does_not() -> None:
    run = config()
    state = start(FIVE, run)
    for _ in range(2):
        screening = open_screening(state, run)
        for site in "acd":
            screen(screening, update(site, 1.0, state.round + 1))
        refuse(screening, "b", "it is noise.")
        miss(screening, "e", "not connected")
        state, report = close_round(state, screening, run)
        assert (report.updated, report.absent) == (("a", "c", "d"), ())
        assert report.refused["e"] == "not connected"
    assert (state.records["b"].strikes, state.records["e"].strikes) == (2, 0)
    assert report.refused["b"] == state.records["b"].quarantined == "quarantined since round 2: it is noise"


def test_a_resume_in_the_middle_judges_as_the_whole_run_did(tmp_path: Path) -> None:
    run, lengths = config(), [1.0, 1.5, 0.7, 1.1, 3.0, 6.0]
    whole = start(FIVE, run)
    cut = start(FIVE, run)
    for number, value in enumerate(lengths):
        whole = played(whole, {**HONEST, "d": value}, run)
        save_checkpoint(tmp_path, cut)
        loaded, _ = load_latest(tmp_path)
        assert loaded is not None
        cut = played(loaded, {**HONEST, "d": value}, run)
        assert cut.records == whole.records, number
    assert whole.records["d"].strikes == 1


@given(st.lists(st.floats(0.2, 3.0), min_size=5, max_size=5), st.integers(1, 4))
def test_honest_rounds_have_the_same_bits_with_and_without_the_guard(values: list[float], rounds: int) -> None:
    guarded, plain = config(norm_bound=100.0), config(norm_bound=0.0, strikes=0)
    one, other = start(FIVE, guarded), start(FIVE, plain)
    for _ in range(rounds):
        spread = dict(zip("abcde", values, strict=True))
        one, other = played(one, spread, guarded), played(other, spread, plain)
    assert all(one.offsets[g]["w"].equal(other.offsets[g]["w"]) for g in one.offsets)


def test_the_median_is_of_the_modality_where_three_are_known_else_of_all_and_a_private_sites_own() -> None:
    norms = {"a": (1.0, 1.0), "b": (2.0,), "c": (3.0,), "d": (50.0,), "p": (900.0,)}
    pools = {"a": "us", "b": "us", "c": "us", "d": "mri", "e": "us", "p": ""}
    assert running_median(norms, pools, "e") == 1.5
    assert running_median(norms, pools, "d") == 2.0
    assert running_median(norms, pools, "p") == 900.0
    assert running_median({"a": (1.0,), "b": (9.0,)}, pools, "a") is None


def test_what_waits_in_a_file_has_the_same_bits() -> None:
    weights = {"a": torch.randn(3, 4).half(), "b": torch.randn(2).half(), "c": torch.zeros(0).half()}
    found = spooled(weights)
    assert all(found[name].equal(value) and found[name].dtype == value.dtype for name, value in weights.items())
    assert spooled({}) == {}


def lone(rule: str, values: list[float]) -> float:
    deltas = {f"s{i}": {"w": torch.tensor([value]).half()} for i, value in enumerate(values)}
    return float(robust_mean(deltas, dict.fromkeys(deltas, 1), rule)["w"])


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ("trimmed", [1.0, 2.0, 3.0, 100.0], 2.5),
        ("trimmed", [-100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 900.0], 3.0),
        ("median", [1.0, 2.0, 4.0, 100.0], 3.0),
        ("median", [1.0, 2.0, 4.0, 100.0, -50.0], 2.0),
        ("krum", [1.0, 1.25, 2.0, 100.0], 1.0),
        ("median", [1.0, 2.0, 6.0], 3.0),
    ],
)
def test_robust_means_by_hand(rule: str, values: list[float], expected: float) -> None:
    assert lone(rule, values) == expected


@given(
    st.sampled_from(["trimmed", "median", "krum"]),
    st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=6),
    st.floats(-60000, 60000, width=16),
)
def test_one_liar_of_four_or_more_cannot_leave_the_honest_range(rule: str, honest: list[float], lie: float) -> None:
    found = lone(rule, [*honest, lie])
    assert min(honest) <= found <= max(honest)


def test_a_robust_rule_needs_four_sites_of_some_modality_and_no_privacy() -> None:
    run = config(robust="median")
    (note,) = robust_notes(start(FIVE, run), run)
    assert note.startswith("mri has 1 of the 4 sites")
    with pytest.raises(ConfigError, match="no modality has that many"):
        robust_notes(start(FIVE[1:], run), run)
    with pytest.raises(ValueError, match="noise of a small private site"):
        RunConfig.model_validate({"aggregate": {"robust": "krum"}, "dp": {"enabled": True}})


def test_a_sign_flipped_update_of_usual_length_is_outvoted_by_a_robust_mean() -> None:
    run = config(robust="median").model_copy(update={"method": "cdtl", "blend": BlendConfig(policy="fixed", alpha=1.0)})
    values = {**HONEST, "b": -1.0}
    state, report = step(start(FIVE, run), [update(site, value) for site, value in values.items()], run)
    assert report.refused == {}
    assert 1.0 <= float(state.offsets["ultrasound"]["w"][0]) <= 1.25


def test_nothing_usable_names_each_reason() -> None:
    run = config()
    with pytest.raises(FederationError, match="a: an update has values in 'w' that are not finite"):
        step(start(FIVE, run), [update("a", float("nan"))], run)


def test_when_most_sites_take_longer_steps_than_before_none_is_refused_but_the_liar_among_them() -> None:
    """A head that starts at zero moves nothing behind it in its first step: the second is hundreds of times longer."""
    run = config(strikes=0)
    state = played(start(FIVE, run), dict.fromkeys("abcde", 0.01), run)
    _, report = step(state, [update(site, 1.0, 2) for site in "abcde"], run)
    assert report.refused == {}
    values = {**HONEST, "c": 50.0}
    for order in (values, reversed(values)):
        _, report = step(state, [update(site, values[site], 2) for site in order], run)
        assert list(report.refused) == ["c"]
        assert sorted(report.updated) == ["a", "b", "d", "e"]
