"""One server round as state in, state out."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cdtl_core.config import RunConfig
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.blend import blend
from cdtl_core.federation.round import round_matrices, step
from cdtl_core.federation.site import SiteUpdate
from cdtl_core.federation.state import CoordinatorState, Member, order_for, start
from cdtl_core.federation.transfer import retention, retention_of

MEMBERS = [
    Member("a", "ultrasound", 30, "L1"),
    Member("b", "ultrasound", 10, "L1"),
    Member("c", "mri", 40, "L1"),
    Member("d", "histology", 5, "L2"),
]


def config(method: str = "cdtl", **tables: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "method": method,
            "federation": {"rounds": 4},
            "blend": {"policy": "fixed", "alpha": 0.7, "settle": 0},
            **tables,
        }
    )


def update(site: str, value: float, round: int = 1) -> SiteUpdate:
    return SiteUpdate(site, round, {"w": torch.full((2,), value).half()}, {"val_loss": 1.0})


def values(state: CoordinatorState) -> dict[str, float]:
    return {group: offset["w"][0].item() for group, offset in state.offsets.items() if offset}


def test_within_a_modality_patients_weigh_and_across_them_the_matrix_does() -> None:
    state, report = step(
        start(MEMBERS, config()), [update(s, v) for s, v in zip("abcd", (1.0, 5.0, 0.0, 8.0), strict=True)], config()
    )
    u = {"histology": 8.0, "mri": 0.0, "ultrasound": 2.0}  # (30 * 1 + 10 * 5) / 40 within ultrasound
    for group, own in u.items():
        others = [value for name, value in u.items() if name != group]
        assert values(state)[group] == pytest.approx(0.7 * own + 0.15 * sum(others), abs=2e-3)
    assert report.groups == ("histology", "mri", "ultrasound")
    assert state.round == report.round == 1


def test_an_absent_modality_keeps_its_weights_and_still_gives() -> None:
    state, _ = step(start(MEMBERS, config()), [update(s, 1.0) for s in "abcd"], config())
    after, report = step(state, [update("a", 1.5, 2), update("b", 0.5, 2), update("d", 1.5, 2)], config())
    assert report.absent == ("c",)
    assert after.offsets["mri"]["w"].equal(state.offsets["mri"]["w"])
    assert values(after)["ultrasound"] == pytest.approx(0.7 * (1 + 1.25) + 0.15 * 1 + 0.15 * 2.5, abs=2e-3)


def test_the_order_of_replies_changes_no_bit() -> None:
    updates = [update(s, v) for s, v in zip("abcd", (0.123, -0.4567, 0.789, 1e-4), strict=True)]
    results = [step(start(MEMBERS, config()), order, config())[0] for order in itertools.permutations(updates)]
    assert len({tuple(values(state).items()) for state in results}) == 1


FINITE = arrays.arrays(np.uint16, (20, 5)).map(lambda bits: np.where(~bits & 0x7C00, bits, bits & 0x83FF))
"""Float16 of any bits: subnormal, negative zero, the largest, huge ones that cancel; not infinite, not NaN."""


@given(
    FINITE,
    st.permutations(range(10)),
    st.sets(st.integers(0, 9), min_size=1),
    st.sampled_from(["cdtl", "fedbn", "alone"]),
)
def test_two_rounds_have_the_bits_of_plain_sums_over_whole_tensors(
    bits: np.ndarray, order: list[int], present: set[int], method: str
) -> None:
    """Groups of several sites and of one, and in the second round also without any."""
    settings = config(method, aggregate={"norm_bound": 0.0})
    members = [Member(f"s{i}", "ultrasound" if i < 6 else "mri" if i < 9 else "ct", 1 + i * i, "L1") for i in range(10)]
    values = [torch.from_numpy(own.view(np.float16) * np.float16(0.125)) for own in bits]
    rounds = [dict(enumerate(values[:10])), {i: values[10 + i] for i in sorted(present)}]
    state, offsets = start(members, settings), dict[str, torch.Tensor]()
    for number, sent in enumerate(rounds, 1):
        updates = [SiteUpdate(members[i].site, number, {"w": sent[i]}) for i in order if i in sent]
        try:
            state, report = step(state, updates, settings)
        except FederationError:  # all were sent in the first round, too
            reject()
        moved = {}
        for group in report.groups:
            own = [i for i, m in enumerate(members) if group in {m.modality, m.site}]
            held = [(members[i].num_patients, sent[i]) for i in own if members[i].site in report.updated]
            before = {"w": offsets[group].double()} if group in offsets else {}
            if held:
                total = sum((n * value.double() for n, value in held), torch.zeros(5, dtype=torch.float64))
                mean = total / sum(n for n, _ in held)
                moved[group] = {"w": mean + before["w"] if before else mean}
            else:
                moved[group] = before
        for group, after in blend(moved, report.matrix).items():
            offsets[group] = after["w"].half()
            assert state.offsets[group]["w"].view(torch.int16).equal(offsets[group].view(torch.int16))


def test_own_heads_are_summed_of_all_whose_updates_count_also_where_these_are_judged_at_the_rounds_end() -> None:
    """Without a past all lengths are judged at the end; a refused site's head is in no sum."""

    def with_head(site: str, value: float, delta: float = 1.0) -> SiteUpdate:
        return replace(update(site, delta), own={"head.L1.weight": torch.full((2, 2), value).half()})

    sent = [with_head("a", 1.0), with_head("b", 5.0), with_head("c", 2.0, delta=float("nan")), update("d", 1.0)]
    for order in itertools.permutations(sent):
        heads = step(start(MEMBERS, config()), order, config())[0].heads
        assert set(heads) == {"ultrasound"}
        assert heads["ultrasound"].total["head.L1.weight"][0, 0].item() == 30 * 1 + 10 * 5
        assert (heads["ultrasound"].patients, heads["ultrasound"].sites) == ({"L1": 40}, {"a": 30, "b": 10})


def test_alone_mixes_nothing_and_shares_no_head() -> None:
    run = config("alone")
    state, _ = step(start(MEMBERS, run), [update(s, v) for s, v in zip("abcd", (1.0, 5.0, 0.0, 8.0), strict=True)], run)
    assert values(state) == {"a": 1.0, "b": 5.0, "c": 0.0, "d": 8.0}
    assert not any(order_for(state, member, run).share_head for member in MEMBERS)


def test_fedavg_gives_every_modality_the_patient_weighted_mean_of_all_sites() -> None:
    run = config("fedbn")
    state, _ = step(start(MEMBERS, run), [update(s, v) for s, v in zip("abcd", (1.0, 5.0, 0.0, 8.0), strict=True)], run)
    expected = (30 * 1 + 10 * 5 + 40 * 0 + 5 * 8) / 85
    assert list(values(state).values()) == pytest.approx([expected] * 3, abs=1e-3)


def test_a_head_is_shared_only_where_another_site_has_the_same_labels() -> None:
    state = start(MEMBERS, config())
    assert [order_for(state, member, config()).share_head for member in MEMBERS] == [True, True, True, False]
    local = config(share={"head": False})
    assert not any(order_for(state, member, local).share_head for member in MEMBERS)


def test_the_cap_limits_a_large_sites_weight() -> None:
    run = config(federation={"rounds": 4, "patient_cap": 10})
    state, _ = step(start(MEMBERS, run), [update(s, v) for s, v in zip("abcd", (1.0, 5.0, 0.0, 8.0), strict=True)], run)
    assert values(state)["ultrasound"] == pytest.approx(0.7 * 3.0 + 0.15 * 8.0, abs=2e-3)


@pytest.mark.parametrize(
    "bad",
    [
        update("x", 1.0),
        update("a", 1.0, round=7),
        update("b", 2.0),
        SiteUpdate("a", 1, {"w": torch.tensor([float("nan"), 0]).half()}, {}),
    ],
    ids=["unknown", "other round", "twice", "not finite"],
)
def test_a_bad_update_is_named_and_the_round_goes_on(bad: SiteUpdate) -> None:
    state, report = step(
        start(MEMBERS, config()), [update("b", 2.0), bad, update("c", 0.0), update("d", 0.0)], config()
    )
    assert list(report.refused) == [bad.site]
    assert values(state)["ultrasound"] == pytest.approx(0.7 * 2.0, abs=2e-3)


def test_nothing_usable_is_an_error() -> None:
    with pytest.raises(FederationError, match="no usable update"):
        step(start(MEMBERS, config()), [], config())


def test_two_sites_of_one_name_are_refused() -> None:
    with pytest.raises(FederationError, match="same name"):
        start([MEMBERS[0], MEMBERS[0]], config("fedbn"))


def test_a_modality_absent_from_the_start_gives_initial_weights_and_keeps_it() -> None:
    updates = [update(s, v) for s, v in zip("abd", (1.0, 5.0, 8.0), strict=True)]
    state, _ = step(start(MEMBERS, config()), updates, config())
    assert values(state)["ultrasound"] == pytest.approx(0.7 * 2 + 0.15 * 0 + 0.15 * 8, abs=2e-3)
    assert values(state)["mri"] == 0.0


@pytest.mark.parametrize("depth", ["share_early", "share_late"])
def test_the_order_of_replies_changes_no_bit_with_depth_and_two_label_maps(depth: str) -> None:
    run = config(blend={"policy": "fixed", "alpha": 0.6, "settle": 0, "depth": depth})
    heads = {"a": "head.L1.weight", "b": "head.L2.weight", "c": "head.L1.weight", "d": "head.L2.weight"}
    updates = []
    for site, v in zip("abcd", (0.1, 0.7, 0.3, 0.9), strict=True):
        delta = {
            "w": torch.full((2,), v).half(),
            "x": torch.full((1,), v).half(),
            heads[site]: torch.full((1,), v).half(),
        }
        updates.append(SiteUpdate(site, 1, delta, {}))
    results = {
        tuple((g, name, tuple(value.tolist())) for g, offset in state.offsets.items() for name, value in offset.items())
        for order in itertools.permutations(updates)
        for state in [step(start(MEMBERS, run), order, run)[0]]
    }
    assert len(results) == 1


def test_settings_under_which_no_round_blends_are_refused() -> None:
    run = config(blend={"warmup": 2, "settle": 2})
    with pytest.raises(ConfigError, match="leave at least one round"):
        round_matrices(start(MEMBERS, run), run)
    alone = config("alone", blend={"warmup": 2, "settle": 2})
    assert len(round_matrices(start(MEMBERS, alone), alone)) == 4


def test_retention_of_a_whole_run_equals_the_formula_and_knows_donors() -> None:
    run = config()
    found = retention_of(round_matrices(start(MEMBERS, run), run))
    assert found == pytest.approx([retention(0.7, modalities=3, rounds=4)] * 3)
    nothing = config(blend={"policy": "fixed", "settle": 0, "donors": {"mri": [], "histology": [], "ultrasound": []}})
    assert retention_of(round_matrices(start(MEMBERS, nothing), nothing)) == [1.0, 1.0, 1.0]
