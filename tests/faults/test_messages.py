"""Replies that are repeated, late or out of order, clock jumps, and sites that return with old state or new code."""

import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from cdtl_core.config import SimulationConfig
from cdtl_core.config.settings import flatten
from cdtl_core.coordinator.exchange import Exchange
from cdtl_core.coordinator.membership import gather_sites, open_membership
from cdtl_core.coordinator.run import begin, play_round
from cdtl_core.federation.packing import pack
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.inprocess import InProcessGrid
from cdtl_core.site.app import app as client_app
from tests.faults.rig import Fault, cut_after, finished, play, said

pytestmark = [pytest.mark.slow, pytest.mark.ci]
Tiny = Callable[..., SimulationConfig]
Line = Callable[[str], Fault]
Whole = Callable[[SimulationConfig], Path]


class Repeating(InProcessGrid):
    """A grid that hands replies over late, out of order, twice, and again in later rounds, as its dice say."""

    def disturb(self, seed: int, tally: Path) -> None:
        self.tally = tally
        self.choose, self.old, self.due = random.Random(seed), list[Message](), list[Message]()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:  # type: ignore[override]
        self.due += super().pull_messages(message_ids)
        if self.old and self.choose.random() < 0.6:
            self._count()
            yield self.choose.choice(self.old)
        while self.due and self.choose.random() < 0.5:
            reply = self.due.pop(self.choose.randrange(len(self.due)))
            self.old.append(reply)
            yield reply
            if self.choose.random() < 0.5:
                self._count()
                yield reply

    def _count(self) -> None:
        with open(self.tally, "a") as file:
            file.write("again\n")


@pytest.mark.parametrize("seed", range(3))
def test_duplicate_late_and_shuffled_replies_change_no_bit(
    seed: int, tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    config, out = tiny(), tmp_path / "run"

    def disturbed() -> None:
        import cdtl_core.simulation.inprocess as room

        class Seeded(Repeating):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments)  # type: ignore[arg-type]
                self.disturb(seed, tmp_path / "repeats")

        room.InProcessGrid = Seeded  # type: ignore[misc]

    assert finished(play(config, out, before=disturbed)) == 0, said(out)
    repeats = len((tmp_path / "repeats").read_text().splitlines())
    fault("duplicate, late and shuffled replies").compare(out, whole(config), tries=repeats)


@pytest.mark.parametrize("jump_s", [-86400.0, 3600.0, 10 * 365 * 86400.0])
def test_a_clock_that_jumps_back_and_forth_changes_no_bit(
    jump_s: float, tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    """`time.time` as all of Python sees it jumps at every third look; the monotonic clock is the kernel's."""
    config, out = tiny(), tmp_path / "run"

    def jumping() -> None:
        real, looks = time.time, [0]

        def wrong() -> float:
            looks[0] += 1
            if looks[0] % 3 == 0:
                (tmp_path / "jumps").write_text(str(looks[0] // 3))
            return real() + (jump_s if looks[0] % 3 == 0 else 0.0)

        time.time = wrong

    assert finished(play(config, out, before=jumping)) == 0, said(out)
    fault("clock jump (injected)").compare(out, whole(config), tries=int((tmp_path / "jumps").read_text()))


def test_a_site_restored_from_an_older_copy_says_so_and_is_not_taken_for_the_newest(
    tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    """Its head and norms of round 1 in place of round 2: what was lost cannot be had again, and is named."""
    config, out = tiny(share={"head": False}), tmp_path / "run"
    cut_after(config, out, 2)
    memory = out / "sites" / "alba" / "memory" / "tiny-cdtl"
    kept = sorted(memory.glob("round-*.safetensors"))
    for path in kept[1:]:
        path.unlink()
    assert finished(play(config, out)) == 0, said(out)
    assert "restored from an older copy" in (out / "sites.log").read_text()
    line = fault("site with an older head: named")
    line.tried, line.survived, line.repeated, line.kills = line.tried + 1, line.survived + 1, None, line.kills + 1


def test_a_site_that_lost_its_memory_in_the_round_under_way_gets_it_back_by_repeating(
    tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    """A copy of the folder as it was at the last checkpoint: nothing is lost, the round is played again."""
    config, out = tiny(share={"head": False}), tmp_path / "run"
    cut_after(config, out, 1)
    shutil.copytree(out / "sites" / "alba" / "memory", tmp_path / "copy")
    cut_after(config, out, 2)
    for path in (out / "checkpoints" / "cdtl").glob("round-*"):
        if path.name > "round-0001":
            shutil.rmtree(path)
    shutil.rmtree(out / "sites" / "alba" / "memory")
    shutil.copytree(tmp_path / "copy", out / "sites" / "alba" / "memory")
    assert finished(play(config, out)) == 0, said(out)
    line = fault("site restored to the last checkpoint")
    line.kills += 2
    line.compare(out, whole(config))


def _older(content: RecordDict) -> None:
    """As a site that knows another intake of images would introduce itself."""
    record = content.config_records["site"]
    record["contract"] = str(record["contract"]).replace('"intake_version":', '"intake_version":9')


def _newer(content: RecordDict) -> None:
    """As a site whose update has one tensor more than this version knows."""
    import numpy as np

    content.update(pack("delta", {"backbone.new.weight": np.zeros((2, 2), np.float16)}))


def _without(content: RecordDict) -> None:
    """As a site that does not send what this version needs."""
    del content["metrics"]


@pytest.mark.parametrize(
    ("kind", "skew", "says"),
    [
        ("query.describe", _older, "its contract says intake_version"),
        ("train", _newer, "with an unexpected name"),
        ("train", _without, "use the same cdtl version"),
    ],
)
def test_a_site_of_another_version_is_left_out_by_name_and_the_others_go_on(
    kind: str,
    skew: Callable[[RecordDict], None],
    says: str,
    tiny: Tiny,
    whole: Whole,
    fault: Line,
    tmp_path: Path,
) -> None:
    config = tiny()
    shutil.copytree(whole(config) / "sites", tmp_path / "sites")
    homes = sorted((tmp_path / "sites").iterdir())
    run = config.run.model_copy(update={"federation": config.run.federation.model_copy(update={"min_sites": 2})})

    def skewed(message: Message, context: object) -> Message:
        reply = client_app(message, context)  # type: ignore[arg-type]
        if str(context.node_config["home"]).endswith("bari") and message.metadata.message_type == kind:  # type: ignore[attr-defined]
            skew(reply.content)
        return reply

    grid = InProcessGrid(skewed, homes, flatten(run))  # type: ignore[arg-type]
    membership = open_membership(Exchange(grid), run, build_initial_weights(run.model, run.seed, run.image.size))
    gather_sites(membership, {})
    _, played = play_round(membership, begin(membership, None))
    reasons = {**membership.left_out, **played.report.refused}
    assert says in str(reasons)
    assert played.report.updated == ("alba", "como")
    line = fault("another version at a site: named, others go on")
    line.tried, line.survived, line.repeated = line.tried + 1, line.survived + 1, None
