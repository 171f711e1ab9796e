"""The journal of a run and the diary of a site: what is written is read, torn lines and earlier versions included."""

import json
from pathlib import Path

import numpy as np
import pytest

from cdtl_core.config.folders import SiteFolder
from cdtl_core.federation.journal import (
    Diary,
    Ending,
    JournalFile,
    Round,
    Traffic,
    read_diary,
    read_entries,
    read_journal,
    unprotected_runs,
)
from cdtl_core.federation.round import RoundReport

SIZES = Traffic(bytes_received=100, initial_weights_bytes=40, bytes_sent=30, seconds=1.23456)


def report(number: int, **metrics: float) -> RoundReport:
    return RoundReport(
        round=number,
        updated=("north",),
        spent=("west",),
        absent=("east",),
        refused={"south": "why"},
        metrics={"north": metrics},
        groups=("mri", "ultrasound"),
        matrix=np.eye(2),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    for method in ("fedbn", "cdtl"):
        file = JournalFile(path, method)
        file.add_round(report(1, val_loss=0.5, val_auroc=float("nan")), {"north": SIZES}, ("new",), 2.0)
        assert not file.finished()
        file.add_ending(2, {"north": (SIZES, {"test_auroc": 0.75}, "pool")}, {"south": "not connected"}, 3.0)
        assert file.finished()
    fedbn, cdtl = read_journal(path)
    (one,) = cdtl.rounds
    sizes = {"bytes_received": 100, "initial_weights_bytes": 40, "bytes_sent": 30, "seconds": 1.235}
    assert one == Round(
        method="cdtl",
        number=1,
        seconds=2.0,
        sites={"north": {"val_loss": 0.5, "val_auroc": None, **sizes}},
        spent=["west"],
        absent=["east"],
        refused={"south": "why"},
        joined=["new"],
        groups=["mri", "ultrasound"],
        matrix=[[1.0, 0.0], [0.0, 1.0]],
    )
    final = {"test_auroc": 0.75, "chosen": "pool", **sizes}
    assert fedbn.ending == Ending("fedbn", 2, 3.0, {"north": final}, {"south": "not connected"})
    assert cdtl.sites == ["east", "new", "north", "south", "west"]
    assert [(entry.method, entry.number) for entry in read_entries(path)] == [
        ("fedbn", 1), ("fedbn", 2), ("cdtl", 1), ("cdtl", 2)
    ]  # fmt: skip


def test_a_site_that_gives_no_figures_gives_no_seconds(tmp_path: Path) -> None:
    JournalFile(tmp_path / "rounds.jsonl", "cdtl").add_round(report(1), {"north": SIZES}, (), 2.0)
    assert "seconds" not in read_journal(tmp_path / "rounds.jsonl")[0].rounds[0].sites["north"]


def test_a_resume_drops_later_lines_of_its_method_and_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    for method in ("fedbn", "cdtl"):
        for number in (1, 2, 3):
            JournalFile(path, method).add_round(report(number, val_loss=0.5), {"north": SIZES}, (), 2.0)
    with open(path, "a") as file:
        file.write('{"method": "cdtl", "rou')
    JournalFile(path, "cdtl").rewind(1)
    assert [(entry.method, entry.number) for entry in read_entries(path)] == [
        ("fedbn", 1), ("fedbn", 2), ("fedbn", 3), ("cdtl", 1)
    ]  # fmt: skip
    assert len(path.read_text().splitlines()) == 4


def test_lines_of_earlier_versions_are_read_under_the_names_of_today(tmp_path: Path) -> None:
    line = {"round": 1, "val_loss": 0.5, "bytes_received": 9, "theta0_bytes": 4, "seconds": 1.0}
    (tmp_path / "diary").write_text(json.dumps(line) + "\n")
    figures = {name: value for name, value in line.items() if name != "round"}
    (tmp_path / "rounds.jsonl").write_text(json.dumps({"method": "cdtl", "round": 1, "sites": {"a": figures}}) + "\n")
    for journal in (read_diary(tmp_path / "diary", "cdtl", "a"), *read_journal(tmp_path / "rounds.jsonl")):
        assert journal.rounds[0].sites["a"]["initial_weights_bytes"] == 4
        assert "theta0_bytes" not in journal.rounds[0].sites["a"]


def noted(home: Path, round: int, **metrics: float) -> list[dict[str, float]]:
    path = SiteFolder(home).diary("run-cdtl")
    Diary(path).note(round, SIZES, metrics)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_round_asked_for_again_replaces_its_line_and_those_after_it(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        noted(tmp_path, number, val_loss=0.1 * number)
    lines = noted(tmp_path, 2, val_loss=0.9)
    assert [(line["round"], line["val_loss"]) for line in lines] == [(1, 0.1), (2, 0.9)]
    assert Diary(SiteFolder(tmp_path).diary("run-cdtl")).last_round(before=2) == 1


def test_a_torn_line_is_dropped_and_no_number_is_null(tmp_path: Path) -> None:
    noted(tmp_path, 1)
    with open(SiteFolder(tmp_path).diary("run-cdtl"), "a") as file:
        file.write('{"round": 2, "sec')
    lines = noted(tmp_path, 2, val_auroc=float("nan"))
    assert [line["round"] for line in lines] == [1, 2]
    assert lines[1]["val_auroc"] is None
    assert "val_loss" not in lines[0]
    assert lines[0]["bytes_sent"] == 30


@pytest.mark.parametrize(("metrics", "found"), [({"val_loss": 0.5}, ("run-cdtl",)), ({}, ())])
def test_a_diary_tells_whether_updates_went_out_without_privacy(
    metrics: dict[str, float], found: tuple[str, ...], tmp_path: Path
) -> None:
    noted(tmp_path, 1, **metrics)
    assert unprotected_runs(SiteFolder(tmp_path)) == found
