"""A site's notes of its rounds: one line per round, also if a round was repeated."""

import json
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from cdtl_core.site.diary import note_round


def noted(home: Path, round: int, **metrics: float) -> list[dict[str, float]]:
    content = RecordDict({"x": ConfigRecord({"y": "z" * 10})})
    note_round(home, "run-cdtl", round=round, seconds=1.5, received=content, sent=content, metrics=metrics)
    return [json.loads(line) for line in (home / "rounds" / "run-cdtl.jsonl").read_text().splitlines()]


def test_a_round_asked_for_again_replaces_its_line_and_those_after_it(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        noted(tmp_path, number, val_loss=0.1 * number)
    lines = noted(tmp_path, 2, val_loss=0.9)
    assert [(line["round"], line["val_loss"]) for line in lines] == [(1, 0.1), (2, 0.9)]


def test_a_torn_line_is_dropped_and_no_number_is_null(tmp_path: Path) -> None:
    noted(tmp_path, 1)
    with open(tmp_path / "rounds" / "run-cdtl.jsonl", "a") as file:
        file.write('{"round": 2, "sec')
    lines = noted(tmp_path, 2, val_auroc=float("nan"))
    assert [line["round"] for line in lines] == [1, 2]
    assert lines[1]["val_auroc"] is None
    assert "val_loss" not in lines[0]
    assert lines[0]["bytes_sent"] > 0
