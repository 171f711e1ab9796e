"""Event files and other sinks get each round of rounds.jsonl once, also if one of them fails."""

from pathlib import Path

import pytest

from cdtl_core.federation.journal import Ending, Round, read_journal
from cdtl_core.report.tracking import MlflowSink, TensorBoardSink, following, tell


class Told:
    def __init__(self, fails: bool = False) -> None:
        self.rounds: list[tuple[str, int]] = []
        self.endings: list[str] = []
        self._fails = fails

    def add_round(self, method: str, one: Round) -> None:
        self.rounds.append((method, one.number))
        if self._fails:
            raise OSError("disk full")

    def add_ending(self, method: str, ending: Ending, number: int) -> None:
        self.endings.append(method)

    def close(self) -> None:
        self.rounds.append(("closed", 0))


def test_every_round_is_told_once(finished: Path) -> None:
    sink, told = Told(), set[tuple[str, int]]()
    for _ in range(2):
        tell(read_journal(finished / "rounds.jsonl"), [sink], told)
    assert sink.rounds == [(method, number) for method in ("alone", "cdtl") for number in (1, 2, 3)]
    assert sink.endings == ["alone", "cdtl"]


def test_one_that_fails_ends_neither_the_run_nor_the_others(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Told(fails=True), Told()
    with following(finished, [bad, good]):
        pass
    assert bad.rounds == [("alone", 1)]
    assert len(good.rounds) == 7
    assert "disk full" in caplog.text


def test_tensorboards_files_hold_the_journals_figures(finished: Path, tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("tensorboardX")
    (tmp_path / "rounds.jsonl").write_bytes((finished / "rounds.jsonl").read_bytes())
    for _ in range(2):  # the second time the files of the first are replaced
        with following(tmp_path, [TensorBoardSink(tmp_path)]):
            pass
    (path,) = (tmp_path / "tensorboard" / "cdtl" / "alba").glob("events.*")
    events = tensorboard.record_writer
    found = []
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[16 + size :]
    assert events
    journal = next(one for one in read_journal(finished / "rounds.jsonl") if one.method == "cdtl")
    expected = [(one.number, one.sites["alba"]["val_auroc"]) for one in journal.rounds]
    assert [(step, pytest.approx(value)) for step, tag, value in found if tag == "auroc/validation"] == expected
    assert [tag for _, tag, _ in found].count("auroc/test") == 1


@pytest.mark.filterwarnings("ignore")
def test_mlflow_is_told_the_same(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    sink = MlflowSink(f"file:{tmp_path / 'mlruns'}", "tiny", {"train.lr": 0.1})
    tell(read_journal(finished / "rounds.jsonl"), [sink], set())
    client = mlflow.MlflowClient(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert {run.info.run_name for run in runs} == {"alone", "cdtl"}
    assert all("alba/auroc/test" in run.data.metrics for run in runs)
    assert runs[0].data.params == {"train.lr": "0.1"}
