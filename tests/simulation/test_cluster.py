"""Comparisons and simulations on a Ray cluster of real raylets."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from simulations.raylets import LIKE_THE_DRIVER, Raylets, wait_until
from tests.conftest import Cdtl
from tests.simulation.test_compare import STUDY, TINY
from tests.stub import STUB

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    found = Raylets(tmp_path_factory.mktemp("nodes"))
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace(STUB, "test_efficientnet"))  # other processes know no stub


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cdtl_core.cli.main", *words]


def call(folder: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **LIKE_THE_DRIVER}
    return subprocess.run(command(*words), cwd=folder, env=env, capture_output=True, text=True, timeout=timeout)


def on(nodes: Raylets) -> tuple[str, ...]:
    return "--engine", "ray", "--address", nodes.address


@pytest.mark.slow
@pytest.mark.ci
def test_two_nodes_give_the_bytes_of_one_machine(cdtl: Cdtl, nodes: Raylets, tmp_path: Path) -> None:
    """A comparison, from its command to its bytes, with images on a shared path; both nodes play cells."""
    nodes.add()
    nodes.add()
    assert cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    done = call(tmp_path, "compare", "tiny.toml", *STUDY, "--out", "b", *on(nodes))
    assert done.returncode == 0, done.stderr
    assert "8 of 8 cells; " in done.stderr
    assert (tmp_path / "b" / "compare.json").read_bytes() == (tmp_path / "a" / "compare.json").read_bytes()
    assert not list((tmp_path / "b").glob(".on-cluster*"))


@pytest.mark.slow
def test_a_killed_node_costs_its_cells_alone(cdtl: Cdtl, nodes: Raylets, tmp_path: Path) -> None:
    """One of two nodes is killed while it plays a cell: the same bytes, and no finished cell is played again."""
    nodes.add()
    victim = nodes.add()
    assert cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    cells = tmp_path / "b" / "cells"
    killed: list[dict[str, int]] = []

    def kill() -> None:
        wait_until(lambda: len(list(cells.glob("*.json"))) >= 2)
        killed.append({path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")})
        nodes.kill(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    done = call(tmp_path, "compare", "tiny.toml", *STUDY, "--out", "b", *on(nodes))
    killer.join()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "compare.json").read_bytes() == (tmp_path / "a" / "compare.json").read_bytes()
    assert 2 <= len(killed[0]) < 8
    assert {name: (cells / name).stat().st_mtime_ns for name in killed[0]} == killed[0]

    for lost in sorted(cells.glob("alba-seed1-*")):
        lost.unlink()
    done = call(tmp_path, "compare", "--resume", "b", *on(nodes))
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("4 of 8 cells\n5 of 8 cells; alba, seed 1")
    assert (tmp_path / "b" / "compare.json").read_bytes() == (tmp_path / "a" / "compare.json").read_bytes()


@pytest.mark.slow
def test_a_lost_head_ends_with_one_sentence_and_the_study_continues_without_it(
    cdtl: Cdtl, nodes: Raylets, tmp_path: Path
) -> None:
    nodes.add()
    words = command("compare", "tiny.toml", *STUDY, "--out", "b", *on(nodes))
    env = {**os.environ, **LIKE_THE_DRIVER}
    with subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list((tmp_path / "b" / "cells").glob("*.json"))) >= 2)
        nodes.end()
        _, error = process.communicate(timeout=120)
    last = error.splitlines()[-1]
    assert process.returncode == 7, error
    assert "Ray cluster" in last
    assert f"continue with --resume {tmp_path / 'b'}" in last
    assert "Traceback" not in error
    assert cdtl("compare", "--resume", "b", "--jobs", "1")[0] == 0
    assert cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    assert (tmp_path / "b" / "compare.json").read_bytes() == (tmp_path / "a" / "compare.json").read_bytes()


@pytest.mark.slow
def test_a_cluster_without_a_core_left_is_not_waited_for_without_end(nodes: Raylets, tmp_path: Path) -> None:
    nodes.add(cores=0)
    victim = nodes.add()
    words = command("compare", "tiny.toml", *STUDY, "--out", "b", *on(nodes))
    env = {**os.environ, **LIKE_THE_DRIVER}
    with subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list((tmp_path / "b" / "cells").glob("*.json"))) >= 2)
        nodes.kill(victim)
        _, error = process.communicate(timeout=180)
    assert process.returncode == 7, error
    assert "no node of the cluster has the 1 CPUs" in error.splitlines()[-1]
    assert f"continue with --resume {tmp_path / 'b'}" in error.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_and_no_task(nodes: Raylets, tmp_path: Path, number: int) -> None:
    nodes.add()
    words = command("compare", "tiny.toml", *STUDY, "--out", "b", *on(nodes))
    env = {**os.environ, **LIKE_THE_DRIVER}
    with subprocess.Popen(
        words, cwd=tmp_path, env=env, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        wait_until(lambda: len(list((tmp_path / "b" / "cells").glob("*.json"))) >= 1)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert number == signal.SIGKILL or b"continue with: cdtl compare --resume b" in error
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == []
    found = sorted((tmp_path / "b" / "cells").glob("*.json"))
    time.sleep(3)  # that nothing happens cannot be awaited
    assert sorted((tmp_path / "b" / "cells").glob("*.json")) == found


@pytest.mark.slow
def test_a_node_without_the_folder_is_refused_unless_the_images_are_sent(
    cdtl: Cdtl, nodes: Raylets, tmp_path: Path
) -> None:
    """The only node with a core sees an empty folder in place of the study's."""
    nodes.add(cores=0)
    nodes.add(around=f"exec unshare --map-root-user --mount sh -c 'mount -t tmpfs none {tmp_path}; exec \"$@\"' -")
    heads = [word for one in ("model.levels=[2,3]", "train.freeze=3", "train.views=1") for word in ("--set", one)]
    refused = call(tmp_path, "compare", "tiny.toml", *heads, *STUDY, "--out", "b", *on(nodes))
    assert refused.returncode == 7, refused.stderr
    assert "does not see the folder" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()
    assert cdtl("compare", "tiny.toml", *heads, *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    send = ("--set", "cluster.send_images=true")
    done = call(tmp_path, "compare", "tiny.toml", *heads, *send, *STUDY, "--out", "b", *on(nodes))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "compare.json").read_bytes() == (tmp_path / "a" / "compare.json").read_bytes()
    assert not list(Path("/tmp").glob("cdtl-*/cache/*"))


@pytest.mark.slow
def test_a_node_with_other_code_is_refused(nodes: Raylets, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cdtl_core", tmp_path / "other" / "cdtl_core")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "other")
    for app in ("server", "client"):
        shutil.copytree(ROOT / app, tmp_path / "other" / app)
    with open(tmp_path / "other" / "cdtl_core" / "errors.py", "a") as file:
        file.write("# another commit\n")
    nodes.add()
    nodes.add(PYTHONPATH=str(tmp_path / "other"))
    done = call(tmp_path, "compare", "tiny.toml", *STUDY, "--out", "b", *on(nodes))
    assert done.returncode == 7, done.stderr
    assert "check out the same commit on all nodes" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_too_small_nodes_end_the_command(nodes: Raylets, tmp_path: Path) -> None:
    nodes.add()
    for change, says in (("cluster.cpus=2", "2 CPUs and 0 GPUs"), ("cluster.gpus=1", "1 CPUs and 1 GPUs")):
        done = call(tmp_path, "compare", "tiny.toml", *STUDY, "--set", change, "--out", "b", *on(nodes))
        assert (done.returncode, says in done.stderr, done.stderr.count("\n")) == (3, True, 1), done.stderr
        assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_sites_of_a_simulation_on_two_nodes_give_the_bytes_of_one_process(nodes: Raylets, tmp_path: Path) -> None:
    """One node is killed in the middle."""
    nodes.add()
    victim = nodes.add()
    assert call(tmp_path, "simulate", "tiny.toml", "--out", "a").returncode == 0
    journal = tmp_path / "b" / "rounds.jsonl"

    def kill() -> None:
        wait_until(lambda: journal.exists() and len(journal.read_text().splitlines()) >= 1)
        nodes.kill(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    done = call(tmp_path, "simulate", "tiny.toml", "--out", "b", *on(nodes))
    killer.join()
    assert done.returncode == 0, done.stderr
    for site in ("alba", "como"):
        for name in ("model.safetensors", "model.json", "models/tiny-cdtl/scores.csv"):
            assert (tmp_path / "a/sites" / site / name).read_bytes() == (
                tmp_path / "b/sites" / site / name
            ).read_bytes()
    last = "checkpoints/cdtl/round-0002/state.safetensors"
    assert (tmp_path / "a" / last).read_bytes() == (tmp_path / "b" / last).read_bytes()
