"""The benchmark's pieces: ratios, table, memory of process trees, and that its plain steps are cdtl's."""

import json
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from cdtl_core.config.settings import load_simulation
from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import build_classifier
from cdtl_core.models.weights import load_into, load_weights
from cdtl_core.simulation.simulate import simulate
from cdtl_core.site.home import open_site
from cdtl_core.training.train import fit
from simulations.bench import pss
from simulations.bench.__main__ import main
from simulations.bench.arms import floor
from simulations.bench.job import JOBS, prepare
from simulations.bench.plain import Net, images_of, initial_weights_of, read_job, train
from simulations.bench.program import play
from simulations.bench.ratio import alternate, median_ratio
from simulations.bench.row import Measured, Row, verdict
from simulations.bench.rows import ROWS
from simulations.bench.session import Session
from simulations.bench.table import entry_of, table_text

pytestmark = pytest.mark.integration

ROW = Row("speed", "one over the other", 2.0, lambda _: Measured(1.5, "3 s against 2 s"))


def test_a_ratio_is_the_median_over_turns_not_the_ratio_of_medians() -> None:
    assert median_ratio([2.0, 30.0, 6.0], [1.0, 10.0, 6.0]) == 2.0
    with pytest.raises(ConfigError, match="2 runs stand against 1"):
        median_ratio([1.0, 2.0], [1.0])


def test_arms_take_turns() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    assert alternate(arms, 2, warm=True) == {"a": [3, 5], "b": [4, 6]}
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("value", "sense", "said"),
    [(2.0, "at most", "met"), (2.1, "at most", "missed"), (2.0, "at least", "met"), (1.9, "at least", "missed")],
)
def test_a_bar_bounds_from_its_side_and_counts_as_reached(value: float, sense: str, said: str) -> None:
    assert verdict(replace(ROW, sense=sense), Measured(value, "")) == said  # type: ignore[arg-type]
    assert verdict(ROW, Measured(None, "no such program")) == "not had"


def test_the_table_names_every_row_and_the_floor_of_a_missed_one_only() -> None:
    other = replace(ROW, name="size", bar=1.0)
    floors = {"speed": "air", "size": "water"}
    found = {row.name: entry_of(row, Measured(1.5, "a note", floor=floors[row.name])) for row in (ROW, other)}
    text = table_text([ROW, other, replace(ROW, name="later")], found)
    assert "floor: water" in text
    assert "air" not in text
    assert [line.split()[0] for line in text.splitlines()[2:] if not line.startswith(" ")] == ["speed", "size", "later"]
    assert "not run" in text


def test_rows_have_distinct_names_and_read_jobs_that_there_are() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {job for row in ROWS for job, _ in row.needs} <= set(JOBS)


def test_memory_of_a_tree_is_the_sum_over_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    child = [sys.executable, "-c", "import time; held = bytearray(b'x' * 40_000_000); print(); time.sleep(60)"]
    with psutil.Popen(child, stdout=-1) as process:
        process.stdout.readline()
        alone, tree = pss.tree_pss(process.pid), pss.tree_pss(psutil.Process().pid)
        process.kill()
    assert 40_000_000 < alone < tree
    assert pss.tree_pss(process.pid) == 0
    sizes = iter([300, 20, 1])
    monkeypatch.setattr(pss, "_pss", lambda _: next(sizes))
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: ["one", "two"])
    assert pss.tree_pss(psutil.Process().pid) == 321


def test_a_program_prints_and_leaves_no_process_behind() -> None:
    orphan = "import os, sys, time; p = os.fork(); q = p or os.fork(); p or q or time.sleep(600); p or os._exit(0); "
    words = "open(sys.argv[1], 'w').write('{\"folder\": \"' + os.getcwd() + '\"}')"
    run = play([sys.executable, "-c", orphan + words, "{said}"])
    assert not Path(run.said["folder"]).exists()
    assert run.cpu_s > 0
    assert not [one for one in psutil.process_iter(["cmdline"]) if orphan in " ".join(one.info["cmdline"] or ())]


def test_processor_time_counts_of_children_for_which_their_parent_does_not_wait() -> None:
    burn = "import time\nwhile time.process_time() < 2.5: pass"
    parent = "import signal, subprocess, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    run = play([sys.executable, "-c", f"{parent}subprocess.Popen([sys.executable, '-c', {burn!r}]).wait()"])
    assert run.cpu_s >= 1.0


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(CdtlError, match="code 3: no room left"):
        play([sys.executable, "-c", "print('no room left'); raise SystemExit(3)"])


def test_the_plain_loop_takes_cdtls_steps(tmp_path: Path) -> None:
    tiny = replace(JOBS["train"], steps=3, backbone="test_efficientnet", weights="random", size=32, patients=16)
    folder = prepare(replace(tiny, batch_size=8), tmp_path)
    job, config = read_job(folder), load_simulation(folder / "config.toml").run
    net = Net(job)
    net.load_state_dict(initial_weights_of(folder), strict=False)
    site = open_site(folder / "homes" / "aachen", config)
    model = build_classifier(config.model, 2, 32)
    load_into(model, build_initial_weights(config.model, 0, 32))
    rng = np.random.default_rng([0, zlib.crc32(b"aachen"), 1])
    ours = fit(model, site.cohort.folds["train"], config.train, epoch=0, rng=rng, device=torch.device("cpu"))
    assert train(net, images_of(job, "aachen"), job, site="aachen", round=1) == ours.loss
    assert all(value.equal(net.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_floors_models_have_the_bits_of_cdtls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(JOBS["train"], rounds=2, steps=2, backbone="test_efficientnet", weights="random", size=32)
    job = prepare(replace(tiny, patients=16, batch_size=8), tmp_path / "job")
    own, plain = tmp_path / "cdtl", tmp_path / "floor"
    monkeypatch.setattr(sys, "argv", ["floor", str(job), str(plain), str(tmp_path / "said.json")])
    floor.main()
    simulate(load_simulation(job / "config.toml"), own)
    for site in read_job(job)["sites"]:
        found = load_weights(plain / site / "model.safetensors")
        expected = load_weights(own / "sites" / site / "model.safetensors")
        assert expected
        assert all(value.equal(found[name]) for name, value in expected.items())


def test_long_arms_are_played_twice_unless_five_runs_are_asked_for(tmp_path: Path) -> None:
    asked = (1, 2, 3, 4, 5, 9)
    assert [Session(tmp_path, runs).runs_of("train") for runs in asked] == [1, 2, 2, 2, 5, 9]
    assert [Session(tmp_path, runs).runs_of("empty") for runs in asked] == list(asked)


def test_one_row_from_the_command_line_to_the_table_and_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    page = tmp_path / "benchmarks.md"
    assert main(["--rows", "import", "--runs", "1", "--json", str(out), "--table", str(page)]) == 0
    row = "| `python -m simulations.bench --rows import` | import cdtl_core loads torch | <= 0 | 0 | met |"
    assert row in page.read_text()
    entry = json.loads(out.read_text())["import"]
    assert (entry["value"], entry["verdict"], entry["runs"]) == (0.0, "met", 1)
    assert "import cdtl_core loads torch" in capsys.readouterr().out
    assert main(["--rows", "nothing"]) == 2
