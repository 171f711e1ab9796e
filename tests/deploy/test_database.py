"""A lost, damaged or outdated SuperLink database is replaced, and the run ends with every model."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation import NoOpFederationManager

from cdtl_core.config import SimulationConfig
from cdtl_core.deploy.database import DATABASE, NODES, database_fault, note_started, prepare_database
from cdtl_core.deploy.status import coordinator_status
from cdtl_core.system.foreign import read_json
from tests.deploy.deployment import MODEL, Deployment
from tests.tables import Tries

Tiny = Callable[..., SimulationConfig]
PROPERTY = "Flower's database is disposable"
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # of Flower's alembic


@pytest.fixture(scope="module")
def made_by_flower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database that Flower itself made, with two sites, one more unregistered, and their list."""
    folder = tmp_path_factory.mktemp("flower")
    _, factory = get_objectstore_linkstate_factories(str(folder / DATABASE), NoOpFederationManager())
    state = factory.state()
    numbers = [state.create_node("owner", "owner", bytes([key]), 30.0) for key in (1, 2, 3)]
    state.delete_node("owner", numbers.pop())
    nodes = {str(key): {"site": str(key), "node": str(number)} for key, number in enumerate(numbers)}
    (folder / NODES).write_text(json.dumps(nodes))
    return folder


@pytest.fixture
def flower(made_by_flower: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    return Path(shutil.copytree(made_by_flower, tmp_path / "flower"))


def test_a_good_database_and_a_first_start_are_left_alone(
    flower: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert prepare_database(flower) == ""
    note_started(flower)
    assert prepare_database(flower) == ""
    assert prepare_database(tmp_path_factory.mktemp("new")) == ""


def without_log(flower: Path) -> None:
    """Write the log back into the database and remove it: SQLite would restore the pages from it."""
    with closing(sqlite3.connect(flower / DATABASE)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for log in flower.glob(f"{DATABASE}-*"):
        log.unlink()


def overwritten(flower: Path) -> None:
    without_log(flower)
    (flower / DATABASE).write_bytes(b"no database" * 1000)


def torn(flower: Path) -> None:
    path = flower / DATABASE
    without_log(flower)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(4096) + content[8192:])


def missing(flower: Path) -> None:
    without_log(flower)
    (flower / DATABASE).unlink()


def empty(flower: Path) -> None:
    without_log(flower)
    (flower / DATABASE).write_bytes(b"")


def older(flower: Path) -> None:
    """A site was registered after this copy of the database was made."""
    with closing(sqlite3.connect(flower / DATABASE)) as database, database:
        database.execute("DELETE FROM node WHERE public_key = ?", (bytes([2]),))


def list_lost(flower: Path) -> None:
    (flower / NODES).unlink()


def never_up(flower: Path) -> None:
    prepare_database(flower)


BREAKS = [overwritten, torn, missing, empty, older, list_lost, never_up]


@pytest.mark.attack(PROPERTY, "damages, removes or ages it before a start")
@pytest.mark.parametrize("destroy", BREAKS, ids=lambda destroy: destroy.__name__)
def test_a_database_that_cannot_be_used_is_set_aside(destroy: Callable[[Path], None], flower: Path) -> None:
    destroy(flower)
    assert prepare_database(flower)
    assert not (flower / DATABASE).exists()
    assert not (flower / NODES).exists()
    note_started(flower)
    assert database_fault(flower) == ""
    for _ in range(3):  # one older database is kept, and no more
        (flower / DATABASE).write_bytes(b"no database" * 1000)
        prepare_database(flower)
        note_started(flower)
    assert {path.name for path in flower.iterdir()} == {"old"}
    assert len(list((flower / "old").iterdir())) == 1


@pytest.fixture
def deployment(tiny: Tiny, tmp_path: Path) -> Iterator[tuple[Deployment, Path]]:
    """Two sites of two modalities in the second of two rounds."""
    config = tiny(
        model=MODEL, federation={"rounds": 2, "min_sites": 2, "round_timeout_s": 200.0, "join_timeout_s": 200.0}
    )
    made = Deployment(tmp_path, [config.sites[0], config.sites[2]], config.of_method("cdtl"))
    made.start_all()
    run = made.request(config.of_method("cdtl"))
    made.approve(run)
    made.play(run)
    made.in_round(run, 2)
    yield made, run
    made.end()


@pytest.mark.slow
@pytest.mark.attack(PROPERTY, "damages, removes or ages it in mid-run")
def test_the_run_ends_with_every_model_whatever_became_of_the_database(
    deployment: tuple[Deployment, Path], tmp_path: Path, tries: Tries
) -> None:
    made, run = deployment
    flower, old = made.coordinator / "flower", tmp_path / "old.db"
    log = made.coordinator / "logs" / "service.log"

    def restarted_after(destroy: Callable[[Path], object]) -> None:
        tries.add()
        made.kill("coordinator")
        without_log(flower)
        destroy(flower)
        made.start("coordinator")

    def going_on() -> None:
        made.until(lambda: coordinator_status(made.coordinator)["database_replaced"], 60.0, "a new database")
        made.until(lambda: len(read_json(flower / NODES)) == 2, 120.0, "both sites in it")
        made.until(lambda: log.read_text().count("as Flower run") > tries.count, 120.0, "the run in it")

    def put_away(_: Path) -> None:
        shutil.copyfile(flower / DATABASE, old)
        overwritten(flower)

    restarted_after(put_away)
    going_on()
    restarted_after(missing)
    going_on()
    restarted_after(lambda _: shutil.copyfile(old, flower / DATABASE))  # it knows none of the numbers of now
    assert made.ended(run) == "completed", made.story()
    assert "one of the two is older" in log.read_text()
    lines = made.lines(run)
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(not line["refused"] and not line["absent"] for line in lines[:2]), lines
    assert all((home / "models" / "tiny-cdtl" / "model.safetensors").exists() for home in made.homes.values())
    made.stop()
