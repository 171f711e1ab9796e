"""The filter's copy of the privacy ledger: approved code that shortens the ledger sends nothing more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from cdtl_core.deploy.egress_filter.refusals import HELD_BACK
from cdtl_core.deploy.egress_filter.witness import LedgerWitness
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.privacy.ledger import Budget, commit, open_ledger, reserve
from tests.deploy.desk import BUNDLE, Desk, Node, error_of, honest
from tests.tables import Tries

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of Flower's SuperLink app
PRIVATE: dict[str, Any] = {"dp.enabled": True, "model.levels": "[2, 3]", "model.dropout": 0.0}
BUDGET = Budget(8.0, 1e-4, 0.1, 20)
RUN = "tiny-cdtl"


def spend(home: Path, *rounds: int) -> None:
    """Reserve and commit rounds, as the code that trains does."""
    open_ledger(home / "privacy", site="alba", num_patients=100)
    for round in rounds:
        reservation = reserve(home / "privacy", run=RUN, round=round, steps=2, budget=BUDGET)
        assert reservation is not None
        commit(home / "privacy", reservation, 2)


def update(manifest: EgressManifest) -> RecordDict:
    content = honest(manifest)
    content["metrics"] = MetricRecord({"round": 1, "spent": 0})
    return content


def answered(desk: Desk, node: Node, run: int, round: str, content: RecordDict) -> Message:
    asked = desk.coordinator.ask(run, node.id, desk.order(int(round)), round=round)
    message = node.take()
    assert message is not None
    node.answer(message, content)
    return desk.coordinator.reply(run, asked)


FORGETTING: dict[str, Callable[[Path], object]] = {
    "removed": lambda ledger: [path.unlink() for path in ledger.parent.iterdir()],
    "begun again": lambda ledger: [[path.unlink() for path in ledger.parent.iterdir()], spend(ledger.parents[1], 1, 2)],
    "shortened": lambda ledger: ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-2])),
    "its noise changed": lambda ledger: ledger.write_text(ledger.read_text().replace('"steps": 2', '"steps": 0')),
    "emptied": lambda ledger: ledger.write_bytes(b""),
}


@pytest.mark.attack("The ledger forgets no spending", "code rewrites or skips the ledger")
def test_an_update_leaves_only_while_the_ledger_holds_all_it_held(open_desk: tuple[Desk, Node], tries: Tries) -> None:
    desk, node = open_desk
    content = update(desk.approve(**PRIVATE).egress)
    run, ledger = (
        desk.coordinator.start_run(BUNDLE, {**desk.settings, **PRIVATE}),
        desk.home / "privacy" / "ledger.jsonl",
    )
    assert error_of(answered(desk, node, run, "1", content)) == HELD_BACK  # nothing was reserved
    spend(desk.home, 1)
    assert answered(desk, node, run, "1", content).has_content()
    assert error_of(answered(desk, node, run, "2", content)) == HELD_BACK
    files = {path: path.read_bytes() for path in ledger.parent.iterdir() if path.is_file()}
    for forget in FORGETTING.values():
        forget(ledger)
        assert error_of(answered(desk, node, run, "1", content)) == HELD_BACK
        for path, kept in files.items():
            path.write_bytes(kept)
    tries.add(len(FORGETTING) + 2)
    assert answered(desk, node, run, "1", content).has_content()  # what was put back counts again
    reasons = [line.get("why", "") for line in desk.log() if line["kind"] == "reply"]
    assert sum("the privacy ledger" in why for why in reasons) == len(FORGETTING) + 2
    assert sum("has lost or changed lines" in why for why in reasons) >= 2  # of itself it looks whole


def test_the_sentence_names_the_copy_and_the_copy_mends_the_ledger(tmp_path: Path) -> None:
    spend(tmp_path, 1, 2)
    witness = LedgerWitness(tmp_path)
    assert witness.fault(RUN, "2") == ""
    ledger, copy = tmp_path / "privacy" / "ledger.jsonl", tmp_path / "ledger.copy.jsonl"
    whole = ledger.read_bytes()
    assert copy.read_bytes() == whole
    assert copy.stat().st_mode & 0o777 == 0o600
    ledger.write_bytes(whole + b'{"entry": {"kind"')  # a crash tore the last line: it is not in the copy
    assert witness.fault(RUN, "1") == ""
    assert copy.read_bytes() == whole
    ledger.unlink()
    assert f"cp {copy} {ledger}" in witness.fault(RUN, "2")
    ledger.write_bytes(copy.read_bytes())
    assert witness.fault(RUN, "2") == ""
    assert "reserves nothing for round 3" in witness.fault(RUN, "3")
