"""A study in parts, and what is refused of a cluster's options and nodes; no raylet is started."""

import pickle
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdtl_core.config.settings import load_simulation
from cdtl_core.simulation.cell import open_sites
from cdtl_core.simulation.cluster.nodes import Demand, fault_here, versions
from tests.conftest import Cdtl
from tests.simulation.test_compare import STUDY, TINY
from tests.tables import Tries


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


class Recording:
    """A crew that keeps what would be sent to other machines, and works here."""

    def __init__(self, folder: Path) -> None:
        self.own_folder, self.sent = str(folder), b""

    def work_through(self, tasks: Sequence[Any], work: Callable[[Any], Any]) -> Generator[tuple[Any, Any]]:
        self.sent += pickle.dumps(work)
        for task in tasks:
            self.sent += pickle.dumps(task)
            yield task, work(task)


@pytest.mark.attack("no image leaves a machine unasked", "look for each image in what a cluster's nodes are sent")
@pytest.mark.parametrize("asked", [False, True])
def test_no_image_is_sent_to_a_cluster_unless_the_settings_ask_for_it(
    cdtl: Cdtl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: Tries, asked: bool
) -> None:
    crew = Recording(tmp_path / "node")
    monkeypatch.setattr("cdtl_core.simulation.cluster.crew.joined", lambda *_, **__: nullcontext(crew))
    options = (
        "--engine",
        "ray",
        "--address",
        "auto",
        "--out",
        "x",
        "--set",
        f"cluster.send_images={str(asked).lower()}",
    )
    done = cdtl("compare", "tiny.toml", *STUDY, *options)
    assert done.code == 0, done.err
    pixels = [
        np.asarray(site.cohort.folds["train"].pixels)
        for site in open_sites(load_simulation(Path("tiny.toml")), Path("x"))
    ]
    images = [image.tobytes() for of_site in pixels for image in of_site]
    tries.add(len(images))
    assert len(images) > 30
    assert {image in crew.sent for image in images} == {asked}
    assert b".png" not in crew.sent


def test_parts_of_a_study_give_the_bytes_of_the_whole(cdtl: Cdtl, tmp_path: Path) -> None:
    """Two shards after each other; the last one combines. A part of another study is refused."""
    assert cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    code, out, lines = cdtl("compare", "tiny.toml", *STUDY, "--out", "b", "--jobs", "1", "--shard", "2/2")
    assert (code, "others are not" in out) == (0, True), lines
    assert "4 of 4 cells" in lines
    assert not (tmp_path / "b" / "compare.json").exists()
    other = cdtl("compare", "tiny.toml", *STUDY[:-2], "--target", "como", "--out", "b", "--shard", "1/2")
    assert (other[0], "holds another study" in other[2]) == (6, True)
    code, table, lines = cdtl("compare", "tiny.toml", *STUDY, "--out", "b", "--jobs", "1", "--shard", "1/2")
    assert (code, "SYNTHETIC" in table) == (0, True), lines
    for name in ("compare.json", "curves.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("compare", "--address", "127.0.0.1:6379"), 2, "add --engine ray"),
        (("simulate", "--address", "127.0.0.1:6379"), 2, "add --engine ray"),
        (("compare", "--engine", "ray"), 2, "needs --address"),
        (("compare", "--engine", "ray", "--address", "auto", "--shard", "1/2"), 2, "remove --shard"),
        (("compare", "--shard", "1/2"), 2, "needs CONFIG and --out"),
        (("compare", "--shard", "3/2", "--out", "x"), 2, "with I from 1 to N"),
        (("compare", "--engine", "ray", "--address", "ray://head:10001"), 3, "is not HOST:PORT"),
        (("simulate", "--engine", "ray", "--address", "head"), 3, "is not HOST:PORT"),
        (
            ("simulate", "--engine", "ray", "--address", "h:1", "--set", "cluster.send_images=true"),
            3,
            "every node must",
        ),
        (("compare", "--engine", "ray", "--address", "no.such.name.invalid:6379"), 7, "nothing answers at no.such"),
        (("compare", "--set", "cluster.cpus=0"), 3, "cluster.cpus"),
    ],
)
def test_wrong_options_are_one_sentence_and_leave_nothing(
    cdtl: Cdtl, tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    found, _, error = cdtl(words[0], "tiny.toml", *words[1:])
    assert (found, says in error) == (code, True), error
    assert code == 2 or error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.toml", "runs"}
    assert not any((tmp_path / "runs").glob("*"))


def test_an_address_where_nothing_listens_is_refused_at_once(cdtl: Cdtl, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        for what in ("compare", "simulate"):
            code, _, error = cdtl(what, "tiny.toml", "--engine", "ray", "--address", address, "--out", "x")
            assert (code, f"nothing answers at {address}" in error, error.count("\n")) == (7, True, 1)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_another_service_at_the_address_ends_with_a_sentence(cdtl: Cdtl, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:  # it accepts, and never speaks
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, _, error = cdtl("compare", "tiny.toml", "--engine", "ray", "--address", address, "--out", "x")
    assert (code, "no Ray cluster took this machine" in error, error.count("\n")) == (7, True, 1)
    assert not (tmp_path / "x").exists()


def test_without_ray_the_sentence_says_how_to_install_it(cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it was not installed
    code, _, error = cdtl("compare", "tiny.toml", "--engine", "ray", "--address", "127.0.0.1:6379")
    assert (code, "Ray is not installed" in error) == (3, True)


def test_a_node_says_what_it_lacks(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text("this study")
    assert fault_here(Demand(versions(), str(mark), "this study")) == ""
    assert "does not see the folder" in fault_here(Demand(versions(), str(mark), "another study"))
    assert "does not see the folder" in fault_here(Demand(versions(), str(tmp_path / "none"), "this study"))
    assert "has torch" in fault_here(Demand({**versions(), "torch": "1.0"}))
    assert "has package ours none, and this machine 1" in fault_here(Demand({**versions(), "package ours": "1"}))
    assert "has cdtl" in fault_here(Demand({**versions(), "cdtl": "0.2.0 (code 0)"}))
