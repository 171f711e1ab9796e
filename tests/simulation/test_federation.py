"""A whole federation of synthetic images: the Flower run against the plain loop, its messages, its resume."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from cdtl_core.config import Method, RunConfig, SimulationConfig
from cdtl_core.config.settings import flatten, load_simulation
from cdtl_core.coordinator.exchange import Exchange
from cdtl_core.data.transforms import TRANSFORMS
from cdtl_core.errors import FederationError
from cdtl_core.federation.checkpoint import load_latest
from cdtl_core.federation.contract import label_hash
from cdtl_core.federation.round import step
from cdtl_core.federation.site import SiteMemory, run_round
from cdtl_core.federation.state import CoordinatorState, Member, order_for, start
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import load_weights
from cdtl_core.simulation.cell import open_sites
from cdtl_core.simulation.inprocess import InProcessGrid
from cdtl_core.simulation.simulate import resume_simulation, simulate
from cdtl_core.site.app import app as client_app
from cdtl_core.site.home import open_site
from tests.conftest import TINY_SITES, Played

Tiny = Callable[..., SimulationConfig]
METHODS: tuple[Method, ...] = ("alone", "fedbn", "cdtl")


def models(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("sites/*/models/*/model.safetensors"))
    }


def plain_loop(config: RunConfig, homes: list[Path]) -> CoordinatorState:
    """The whole algorithm as a loop over sites, without Flower."""
    sites = {site.name: site for site in (open_site(home, config) for home in homes)}
    initial_weights = build_initial_weights(config.model, config.seed, config.image.size)
    members = [
        Member(s.name, s.modality, s.cohort.folds["train"].num_patients, label_hash(s.cohort.labels))
        for s in sites.values()
    ]
    state, memories = start(members, config), dict.fromkeys(sites, SiteMemory())
    for _ in range(config.federation.rounds):
        updates = []
        for member in reversed(state.members):  # another order than the server's
            order = order_for(state, member, config)
            memories[member.site], update = run_round(sites[member.site], initial_weights, memories[member.site], order)
            updates.append(update)
        state, _ = step(state, updates, config)
    return state


@pytest.mark.parametrize("method", METHODS)
def test_the_flower_run_equals_the_plain_loop_to_the_last_bit(
    tiny: Tiny, played: Played, tmp_path: Path, method: Method
) -> None:
    config = tiny(methods=METHODS)
    run = played(config).copied(tmp_path / "run")
    state, _ = load_latest(run / "checkpoints" / method)
    assert state is not None
    expected = plain_loop(config.of_method(method), sorted((run / "sites").iterdir()))
    assert state.round == expected.round == 3
    for group, offset in expected.offsets.items():
        assert list(offset) == list(state.offsets[group])
        assert all(offset[name].equal(state.offsets[group][name]) for name in offset)
        assert any(value.abs().max() > 0 for value in offset.values())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny: Tiny, played: Played, tmp_path: Path) -> None:
    one = played(tiny()).out
    for name, seed in (("two", 0), ("three", 1)):
        simulate(tiny(seed=seed), tmp_path / name)
    assert models(one) == models(tmp_path / "two")
    assert models(one) != models(tmp_path / "three")


class _Killed(BaseException):
    """Stands for a kill: nothing catches it, no clean-up of ours runs."""


@pytest.mark.parametrize(
    "kill_at",
    [1, 7, 13, 22, *(pytest.param(at, marks=[pytest.mark.slow, pytest.mark.ci]) for at in (4, 10, 16, 19))],
)
def test_a_run_killed_anywhere_and_resumed_equals_the_undisturbed_one(
    tiny: Tiny, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    """Kills after the site has acted but before its reply arrives: the nastiest moment, its memory is a round ahead."""
    config = tiny(methods=("alone", "cdtl"))
    whole = played(config)
    pull, count = InProcessGrid.pull_messages, [0]

    def dying(self: InProcessGrid, message_ids: list[str]) -> list[Message]:
        replies = list(pull(self, message_ids))
        count[0] += 1
        if count[0] == kill_at:
            raise _Killed
        return replies

    with monkeypatch.context() as patch:
        patch.setattr(InProcessGrid, "pull_messages", dying)
        with pytest.raises(_Killed):
            simulate(config, tmp_path / "cut")
    resumed = resume_simulation(tmp_path / "cut")
    assert models(tmp_path / "cut") == models(whole.out)
    assert resumed == whole.report


def test_resuming_a_finished_run_only_reports_it_again(tiny: Tiny, played: Played, tmp_path: Path) -> None:
    first = played(tiny())
    run = first.copied(tmp_path / "run")
    before = (run / "rounds.jsonl").read_bytes()
    assert resume_simulation(run) == first.report
    assert (run / "rounds.jsonl").read_bytes() == before


def test_the_saved_settings_are_a_valid_input_that_gives_the_same_run(
    tiny: Tiny, played: Played, tmp_path: Path
) -> None:
    one = played(tiny()).out
    again = load_simulation(one / "config.toml")
    assert again == tiny()
    simulate(again, tmp_path / "two")
    assert models(one) == models(tmp_path / "two")


def test_a_site_with_other_labels_keeps_its_head_and_takes_part(tiny: Tiny, tmp_path: Path) -> None:
    sites = [
        {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16, "seed": 1}}},
        {"site": "bari", "modality": "mammography", "data": {"phantom": {"patients": 16, "seed": 2}}},
        {
            "site": "como",
            "modality": "histology",
            "labels": ["healthy", "malignant"],
            "data": {"phantom": {"patients": 16, "seed": 3}, "label_map": {"benign": "healthy"}},
        },
    ]
    report = simulate(tiny(sites=sites), tmp_path / "run")
    state, _ = load_latest(tmp_path / "run" / "checkpoints" / "cdtl")
    assert state is not None
    heads = {group: [name for name in offset if name.startswith("head.")] for group, offset in state.offsets.items()}
    assert heads["histology"] == []
    assert heads["ultrasound"] == heads["mammography"] != []
    note = json.loads((tmp_path / "run" / "sites" / "como" / "model.json").read_text())
    assert note["labels"] == ["healthy", "malignant"]
    kept = load_weights(
        next((tmp_path / "run" / "sites" / "como" / "memory" / "tiny-cdtl").glob("round-*.safetensors"))
    )
    assert "head.weight" in kept
    assert len(report.sites) == 3


def test_each_site_reports_a_share_per_donor_and_none_of_it_leaves(tiny: Tiny, tmp_path: Path) -> None:
    sites = [{**site, "data": {"phantom": {"patients": 40, "seed": seed}}} for seed, site in enumerate(TINY_SITES)]
    heads = {"model": {"levels": [2, 3]}, "train": {"freeze": 3, "views": 1, "steps": 4}}
    report = simulate(tiny(sites=sites, federation={"rounds": 1}, blend={"settle": 0}, **heads), tmp_path / "run")
    donors = {site.name: site.selection.donor_shares if site.selection else {} for site in report.sites}
    assert {site: set(shares) for site, shares in donors.items()} == {
        "alba": {"ultrasound", "histology"},
        "bari": {"ultrasound", "histology"},
        "como": {"ultrasound"},
    }
    for share in (one for shares in donors.values() for one in shares.values()):
        assert 0 <= share.low <= share.high  # type: ignore[operator]
    assert "donor" not in (tmp_path / "run" / "rounds.jsonl").read_text()
    for diary in (tmp_path / "run" / "sites").glob("*/rounds/tiny-cdtl.jsonl"):
        line, end = map(json.loads, diary.read_text().splitlines())
        assert 0 < line["own_seconds"] < line["seconds"]
        assert end["ends"]


def test_the_report_says_for_each_site_what_it_was_and_gained(tiny: Tiny, played: Played) -> None:
    report = json.loads((played(tiny(methods=METHODS)).out / "report.json").read_text())
    assert report["schema_version"] == 1
    for site, (name, modality) in zip(
        report["sites"], [("alba", "ultrasound"), ("bari", "ultrasound"), ("como", "histology")], strict=True
    ):
        assert (site["name"], site["modality"], site["synthetic"]) == (name, modality, True)
        assert site["num_patients"] == sum(site["patients"].values())
        assert set(site["results"]) == {"alone", "fedbn", "cdtl"}
        assert site["selection"]["chosen"] in {"pool", "own"}
        assert set(site["selection"]["test_auroc"]) == {"pool", "own", "joint"}
        assert 0.7 < site["selection"]["share"] < 1.3  # few validation patients
        assert site["bytes_per_round"]["cdtl"]["sent"] > 0
        assert 0 <= site["results"]["cdtl"]["auroc"]["value"] <= 1


class _Clock:
    """Time that passes only during a sleep, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


def test_an_offline_site_stays_out_by_name_and_its_modality_keeps_its_weights(
    tiny: Tiny, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr("cdtl_core.coordinator.exchange.time", clock)
    monkeypatch.setattr("cdtl_core.coordinator.membership.time", clock)
    config = tiny()
    homes = sorted((played(config).copied(tmp_path / "prepared") / "sites").iterdir())
    run = config.run.model_copy(
        update={"federation": config.run.federation.model_copy(update={"min_sites": 2, "round_timeout_s": 60.0})}
    )
    grid = InProcessGrid(client_app, homes, flatten(run))
    from cdtl_core.coordinator.membership import gather_sites, open_membership
    from cdtl_core.coordinator.run import begin, play_round

    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    gather_sites(membership, {})
    nodes = membership.exchange.connected()
    state, round = play_round(membership, begin(membership, None))
    assert round.report.updated == ("alba", "bari", "como")
    grid.offline.add(nodes["como"])
    after, round = play_round(membership, state)
    assert round.report.updated == ("alba", "bari")
    assert round.report.refused == {"como": "not connected"}
    assert all(after.offsets["histology"][name].equal(value) for name, value in state.offsets["histology"].items())
    grid.offline.add(nodes["bari"])
    with pytest.raises(FederationError, match="1 of the 2 needed"):
        play_round(membership, after)


def test_frozen_stages_are_neither_trained_nor_sent(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(train={"freeze": 2})
    simulate(config, tmp_path / "run")
    initial_weights = build_initial_weights(config.run.model, config.run.seed, 32)
    state, _ = load_latest(tmp_path / "run" / "checkpoints" / "cdtl")
    assert state is not None
    frozen = [
        name for name in initial_weights if name.startswith(("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0"))
    ]
    assert frozen
    assert not set(frozen) & set(state.offsets["ultrasound"])
    final = load_weights(tmp_path / "run" / "sites" / "alba" / "models" / "tiny-cdtl" / "joint.safetensors")
    assert any(name.endswith("running_mean") for name in frozen)
    assert all(final[name].equal(initial_weights[name]) for name in frozen)
    assert not torch.equal(final["backbone.conv_head.weight"], initial_weights["backbone.conv_head.weight"])


def test_a_wait_for_sites_that_never_come_ends_and_says_how_many_came(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdtl_core.coordinator.membership import gather_sites, open_membership

    clock = _Clock()
    monkeypatch.setattr("cdtl_core.coordinator.exchange.time", clock)
    monkeypatch.setattr("cdtl_core.coordinator.membership.time", clock)
    federation = {"rounds": 3, "min_sites": 2, "join_timeout_s": 600.0}
    run = tiny(federation=federation).run
    exchange = Exchange(InProcessGrid(client_app, [], flatten(run)))
    membership = open_membership(exchange, run, build_initial_weights(run.model, run.seed, run.image.size))
    with pytest.raises(FederationError, match="0 of the 2 needed sites introduced themselves"):
        gather_sites(membership, {})


def test_a_transform_sees_training_images_only(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[bytes] = set()

    def spy(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        seen.update(one.tobytes() for one in np.round(images.numpy() * 255).astype(np.uint8))
        return images

    monkeypatch.setitem(TRANSFORMS.functions, "spy", spy)
    still = dict.fromkeys(("flip", "rotate_deg", "translate", "scale", "brightness", "contrast", "noise"), 0.0)
    config = tiny(train={"augment": {**still, "transforms": ["spy"]}})
    simulate(config, tmp_path / "run")
    folds = [site.cohort.folds["train"] for site in open_sites(config, tmp_path / "run")]
    assert seen
    assert seen <= {fold.pixels[row].tobytes() for fold in folds for row in fold.rows}
