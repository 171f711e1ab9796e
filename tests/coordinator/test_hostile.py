"""Replies that are unreadable or impossible: the run continues without the site and reports it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

from cdtl_core.config import SimulationConfig
from cdtl_core.config.settings import flatten
from cdtl_core.coordinator.exchange import Exchange
from cdtl_core.coordinator.membership import Membership, gather_sites, open_membership
from cdtl_core.coordinator.run import begin, finish_run, play_round
from cdtl_core.federation.packing import arrays_of, pack
from cdtl_core.federation.state import CoordinatorState
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.inprocess import InProcessGrid
from cdtl_core.site.app import app as client_app
from tests.conftest import Played

Tiny = Callable[..., SimulationConfig]
Lie = Callable[[RecordDict], None]


Make = Callable[[dict[str, Lie]], tuple[Membership, CoordinatorState]]


@pytest.fixture
def federation(tiny: Tiny, played: Played, tmp_path: Path) -> Make:
    """Three sites that have introduced themselves; bari lies in replies of these kinds."""
    run = tiny(federation={"rounds": 5, "min_sites": 2}).run
    homes = sorted((played(tiny()).copied(tmp_path / "prepared") / "sites").iterdir())

    def make(lies: dict[str, Lie]) -> tuple[Membership, CoordinatorState]:
        def lying(message: Message, context: Context) -> Message:
            reply = client_app(message, context)
            lie = lies.get(message.metadata.message_type)
            if lie and str(context.node_config["home"]).endswith("bari"):
                lie(reply.content)
            return reply

        grid = InProcessGrid(lying, homes, flatten(run))  # type: ignore[arg-type]
        membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
        gather_sites(membership, {})
        return membership, begin(membership, None)

    return make


def nothing(content: RecordDict) -> None:
    for key in list(content):
        del content[key]


def huge(content: RecordDict) -> None:
    arrays = {name: (value * 0 + 60000).astype(value.dtype) for name, value in arrays_of(content, "delta").items()}
    content.update(pack("delta", arrays))


@pytest.mark.parametrize(("lie", "why"), [(nothing, "lacks 'metrics'"), (huge, "times the usual norm")])
def test_a_site_refused_twice_is_not_asked_again_and_has_its_model_at_the_end(
    federation: Make, caplog: pytest.LogCaptureFixture, lie: Lie, why: str
) -> None:
    membership, state = federation({"train": lie})
    with caplog.at_level(logging.WARNING, "cdtl.server"):
        for _ in range(3):
            state, played = play_round(membership, state)
            assert why in played.report.refused["bari"]
            assert played.report.updated == ("alba", "como")
    assert played.report.refused["bari"].startswith("quarantined since round 2")
    assert "bari" not in played.traffic
    assert "bari is quarantined since round 2" in caplog.text
    assert sorted(finish_run(membership, state).finals) == ["alba", "bari", "como"]


def test_a_last_answer_that_cannot_be_read_is_named_and_the_others_have_their_models(
    federation: Make,
) -> None:
    membership, state = federation({"evaluate": nothing})
    state, _ = play_round(membership, state)
    finish = finish_run(membership, state)
    assert sorted(finish.finals) == ["alba", "como"]
    assert "lacks 'final'" in finish.missing["bari"]


def test_a_site_that_says_it_has_a_thousand_patients_more_than_it_has_is_left_out(federation: Make) -> None:
    def boast(content: RecordDict) -> None:
        content.config_records["site"]["num_patients"] = 5000

    membership, _ = federation({"query.describe": boast})
    assert sorted(membership.members) == ["alba", "como"]
    assert "reports 5000 training patients of 10" in str(membership.left_out)
