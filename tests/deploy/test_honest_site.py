"""Real answers of an enrolled site pass its own filter."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.egress_filter.asks import Ask
from cdtl_core.deploy.egress_filter.judge import judge, own_of
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.request import make_request
from cdtl_core.errors import PrivacyError
from cdtl_core.federation import wire
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.federation.site import RoundOrder
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import Weights, weights_hash
from cdtl_core.site import session

Tiny = Callable[..., SimulationConfig]
SITE = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 40, "seed": 1}}}


def ask(kind: str, round: int) -> Ask:
    return Ask(
        run_id=1, message_id="0" * 64, src_node_id=1, dst_node_id=5, group_id=str(round), message_type=kind,
        created_at=0.0, ttl=60.0,
    )  # fmt: skip


def judged(home: Path, manifest: EgressManifest, asked: Ask, content: RecordDict) -> RecordDict:
    """The reply as it leaves."""
    message = asked.reply(content)
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    found = judge(manifest, asked.message_type, message.object_id, objects, own_of(home, asked))
    assert found.content is not None, found.reason
    return found.content


def order(initial_weights: Weights, round: int) -> RecordDict:
    content = wire.encode_order(RoundOrder(round, {}, True), weights_hash(initial_weights))
    content.update(wire.encode_initial_weights(initial_weights))
    return content


@pytest.mark.parametrize("private", [False, True])
def test_all_answers_of_an_honest_site_pass_its_own_filter(tiny: Tiny, tmp_path: Path, private: bool) -> None:
    dp = {"enabled": True, "target_epsilon": 50.0} if private else {}
    run: RunConfig = tiny(dp=dp, model={"adapter": 4 if private else 0}).run
    own, home, initial_weights = (
        SiteConfig.model_validate(SITE),
        tmp_path / "alba",
        build_initial_weights(run.model, 0, 32),
    )
    limits = run.limits.model_copy(update={"initial_weights_hash": weights_hash(initial_weights)})
    run = run.model_copy(update={"limits": limits})
    make_site(home, own)
    enrolled = enrol_site(home, run)
    listed = approve(home, make_request(run, "0" * 64), own).egress
    question = wire.encode_question(weights_hash(initial_weights))
    told = judged(home, listed, ask("query.describe", 0), session.describe_site(question, home, run))
    hello = wire.decode_introduction(told)
    assert (hello.contract, hello.holds_initial_weights) == (enrolled.contract, False)
    for round in (1, 2):
        judged(home, listed, ask("train", round), session.train_round(order(initial_weights, round), home, run))
    with pytest.raises(AssertionError, match="round 2, but round 1 was requested"):
        judged(home, listed, ask("train", 1), session.train_round(order(initial_weights, 2), home, run))
    told = judged(home, listed, ask("query.describe", 0), session.describe_site(question, home, run))
    assert wire.decode_introduction(told).holds_initial_weights
    ended = judged(home, listed, ask("evaluate", 4), session.finish_run(order(initial_weights, 4), home, run))
    assert bool(wire.decode_final(ended).chosen) is not private


@pytest.mark.parametrize(
    ("field", "value"), [("group_id", "1/../2"), ("message_type", "train\n"), ("message_id", "../x")]
)
@pytest.mark.attack("a message never names a path", "metadata of a message as paths and lines")
def test_a_messages_metadata_is_of_the_form_that_flower_and_cdtl_send(field: str, value: str) -> None:
    class Metadata:
        run_id, message_id, src_node_id, dst_node_id = 1, "0" * 64, 1, 5
        group_id, message_type, created_at, ttl = "1", "train", 0.0, 60.0

        def HasField(self, _: str) -> bool:  # noqa: N802
            return False

    known = Metadata()
    assert Ask.of(known) == ask("train", 1)
    setattr(known, field, value)
    with pytest.raises(PrivacyError, match=f"{field} of a message"):
        Ask.of(known)
