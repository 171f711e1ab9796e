"""Messages to sites that get lost, return, are late or are refused, over the in-process grid with real records."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.grid import http_grid

from cdtl_core.config import RunConfig, SimulationConfig
from cdtl_core.config.settings import flatten
from cdtl_core.coordinator.exchange import Exchange, Reply, shorten_waits
from cdtl_core.coordinator.membership import gather_sites, open_membership, quorum_fault
from cdtl_core.coordinator.run import begin, finish_run, play_round
from cdtl_core.errors import FederationError
from cdtl_core.federation.state import Member
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.inprocess import InProcessGrid
from cdtl_core.site.app import app as client_app
from tests.conftest import Played

Tiny = Callable[..., SimulationConfig]
LOST, NOT_APPROVED = 5, 7


def test_a_part_of_a_reply_that_is_still_on_its_way_is_asked_for_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_grid, "pull_objects", pull_objects)  # put back after the test
    shorten_waits()
    grids = http_grid.__dict__["pull_objects"]
    waits = [inspect.signature(one).parameters["initial_backoff"].default for one in (pull_objects, grids)]
    assert waits == [1, 0.05]


class Clock:
    """Time that passes only during a wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Line(InProcessGrid):
    """A grid of one node whose answers are given in advance: an error code, or 0 for a good reply, or None for none."""

    def __init__(self, answers: Iterable[int | None]) -> None:
        super().__init__(client_app, [Path("nowhere")], {})
        self._answers, self.asked, self.session, self.here = list(answers), 0, "first", True

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=101, name="north", last_activated_at=self.session)] if self.here else []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.asked += 1
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for name in message_ids:
            if name in self._pending and self._answers:
                code = self._answers.pop(0)
                if code is None:
                    return []
                message = self._pending.pop(name)
                message.metadata.__dict__["_message_id"] = name
                return [
                    Message(Error(code, "a reason"), reply_to=message)
                    if code
                    else Message(RecordDict(), reply_to=message)
                ]
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for room in ("exchange", "membership"):
        monkeypatch.setattr(f"cdtl_core.coordinator.{room}.time", made)
    return made


def ask(
    line: Line, *, enough: bool = False, timeout_s: float = 30.0, meanwhile: Callable[[], None] = lambda: None
) -> Reply:
    exchange = Exchange(line)
    exchange.send("north", RecordDict(), "train", group="1", timeout_s=timeout_s)
    replies = exchange.collect("train", timeout_s=timeout_s, enough=lambda _: enough, meanwhile=meanwhile)
    (reply,) = replies
    return reply


def test_a_lost_question_is_asked_again_until_it_is_answered(clock: Clock) -> None:
    line = Line([LOST, LOST, 0])
    assert ask(line).content is not None
    assert line.asked == 3


def test_a_site_that_is_lost_again_and_again_is_given_up(clock: Clock) -> None:
    line = Line([LOST] * 9)
    assert ask(line).fault == "it was lost again and again"
    assert line.asked == 5


@pytest.mark.parametrize(("code", "fault"), [(NOT_APPROVED, "it has not approved this run"), (104, "a reason")])
def test_a_refusal_and_an_own_error_are_final_and_named(clock: Clock, code: int, fault: str) -> None:
    line = Line([code, 0])
    assert ask(line).fault == fault
    assert line.asked == 1


def test_a_node_that_restarts_is_asked_again_though_flower_reports_no_loss(clock: Clock) -> None:
    line = Line([None] * 8 + [0])

    def restart() -> None:
        line.session = "second"

    assert ask(line, meanwhile=restart).content is not None
    assert line.asked == 2


@pytest.mark.parametrize(("enough", "waited"), [(True, 1.0), (False, 30.0)])
def test_a_site_that_is_away_is_waited_for_only_while_the_others_are_too_few(
    clock: Clock, enough: bool, waited: float
) -> None:
    line = Line([])
    line.here = False
    assert ask(line, enough=enough).fault == "not connected"
    assert clock.now <= waited + 0.3


def test_a_silent_site_is_given_up_when_the_time_is_over(clock: Clock) -> None:
    assert ask(Line([]), timeout_s=20.0).fault == "no answer within 20 s"
    assert clock.now == pytest.approx(20.0, abs=0.5)


Make = Callable[..., tuple[RunConfig, InProcessGrid]]


@pytest.fixture
def federation(tiny: Tiny, played: Played, tmp_path: Path) -> Make:
    """Three sites that have taken part in a run before; keyword arguments are settings of the next one."""
    homes = sorted((played(tiny()).copied(tmp_path / "prepared") / "sites").iterdir())

    def make(**settings: object) -> tuple[RunConfig, InProcessGrid]:
        run = tiny(federation={"rounds": 5, **settings}).run
        return run, InProcessGrid(client_app, homes, flatten(run))

    return make


def test_a_late_site_of_a_new_modality_joins_during_a_round_and_takes_part_from_the_next(
    federation: Make, clock: Clock
) -> None:
    run, grid = federation(min_sites=2)
    run = run.model_copy(update={"method": "fedbn"})
    como = max(node.node_id for node in grid.get_nodes())
    grid.offline.add(como)
    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    gather_sites(membership, {})
    state, played = play_round(membership, begin(membership, None))
    assert (played.report.updated, played.joined) == (("alba", "bari"), ())
    grid.offline.discard(como)
    clock.now += 10
    for _ in range(3):
        state, played = play_round(membership, state)
        if played.joined:
            break
    assert played.joined == ("como",)
    assert sorted(state.offsets) == ["histology", "ultrasound"]
    _, played = play_round(membership, state)
    assert played.report.updated == ("alba", "bari", "como")


def test_a_site_that_cannot_finish_is_named_and_the_others_have_their_models(federation: Make, clock: Clock) -> None:
    run, grid = federation(min_sites=2, round_timeout_s=60.0)
    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    gather_sites(membership, {})
    state, _ = play_round(membership, begin(membership, None))
    grid.offline.add(membership.exchange.connected()["como"])
    finish = finish_run(membership, state)
    assert sorted(finish.finals) == ["alba", "bari"]
    assert finish.missing == {"como": "not connected"}


def test_the_quorum_counts_sites_and_each_modality(tiny: Tiny) -> None:
    north, south = Member("north", "ultrasound", 10, "h"), Member("south", "mri", 10, "h")
    run = tiny(federation={"min_sites": 2, "min_per_modality": 1}).run
    assert quorum_fault([north, south], run, "answered", {}) == ""
    assert "1 of the 2 needed" in quorum_fault([north], run, "answered", {"south": "not connected"})
    run = tiny(federation={"min_sites": 1, "min_per_modality": 1}).run
    fault = quorum_fault([north], run, "answered", {"south": "not connected"}, [north, south])
    assert fault.startswith("0 mri where 1 of each modality")
    assert "south: not connected" in fault


def test_a_wait_for_named_sites_ends_and_says_who_is_missing_and_why(federation: Make, clock: Clock) -> None:
    run, grid = federation(sites=["alba", "zeno"], min_sites=2, join_timeout_s=50.0)
    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    with pytest.raises(FederationError, match=r"1 of the 2 needed .*zeno: not connected"):
        gather_sites(membership, {})


def test_a_resumed_run_waits_for_a_missing_site_no_longer_than_a_round(federation: Make, clock: Clock) -> None:
    run, grid = federation(sites=["alba", "bari", "zeno"], min_sites=2, round_timeout_s=40.0)
    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    gather_sites(membership, {"zeno": Member("zeno", "mri", 10, "h")})
    assert sorted(membership.members) == ["alba", "bari"]
    assert clock.now == pytest.approx(40.0, abs=2.0)


def test_a_site_that_comes_back_as_another_is_left_out(federation: Make, clock: Clock) -> None:
    run, grid = federation(min_sites=2)
    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    gather_sites(membership, {"como": Member("como", "mri", 10, "h")})
    assert sorted(membership.members) == ["alba", "bari"]
    assert "another modality or label map" in next(iter(membership.left_out.values()))
