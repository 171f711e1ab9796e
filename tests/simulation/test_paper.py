"""Tables of models on synthetic images: a whole table, a resume, the leak, wrong input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdtl_core.config.settings import changed_run, load_run, load_simulation, save_toml, simulation_toml
from cdtl_core.errors import ConfigError, DataError
from cdtl_core.simulation.run_folder import with_absolute_paths
from cdtl_core.simulation.table.row_cell import RowCell, cells_of_table, leaked_share, leaky_site, run_of_row, table_of
from cdtl_core.site.home import open_site
from cdtl_core.system.shipped import find_config
from tests.conftest import Cdtl
from tests.stub import STUB, TINY_SETTINGS

TINY = (
    TINY_SETTINGS.replace(STUB, "plain_cnn")
    + """
[paper]
target = "alba"
test_images = 12
[[paper.rows]]
row = "Plain CNN"
folds = 2
repeats = 2
leaky = 2
[[paper.rows]]
row = "U-Net"
leaky = 0
folds = 2
changes = { model.backbone = "unet", train.steps = 2 }
[[paper.rows]]
row = "CDTL"
method = "cdtl"
repeats = 0
[[sites]]
site = "alba"
modality = "ultrasound"
data.phantom = { patients = 24, seed = 1 }
[[sites]]
site = "como"
modality = "histology"
data.phantom = { patients = 16, seed = 2 }
"""
)


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


def test_a_table_from_command_to_result_goes_on_from_its_cells(cdtl: Cdtl, tmp_path: Path) -> None:
    code, text, lines = cdtl("paper", "tiny.toml", "--out", "a", "--jobs", "1")
    assert code == 0, lines
    assert "9 of 9 cells; CDTL, leaky, repeat 0, fold 0" in lines
    for word in ("LEAKY", "grouped", "U-Net", "12 x 2", "2 folds x 2", "SYNTHETIC", "ensemble over its 2 repeats"):
        assert word in text
    whole = (tmp_path / "a" / "table.json").read_bytes()
    found = json.loads(whole)
    plain, unet, cdtl_row = found["rows"]
    assert (plain["row"], unet["backbone"], cdtl_row["method"]) == ("Plain CNN", "unet", "cdtl")
    assert (unet["leaky"], cdtl_row["grouped"], unet["steps"]) == (None, None, 4)
    assert plain["grouped"]["tested_patients"] == 24
    assert plain["grouped"]["leaked"] == 0 < plain["leaky"]["leaked"]
    assert (plain["leaky"]["tested_images"], plain["leaky"]["repeats"]) == (12, 2)
    assert set(plain["grouped"]["figures"]) == {"accuracy", "sensitivity", "specificity", "precision", "f1", "auroc"}
    by_repeat = plain["grouped"]["auroc_by_repeat"]
    assert plain["grouped"]["figures"]["auroc"]["value"] == pytest.approx(np.mean(by_repeat))
    assert unet["parameters"] != plain["parameters"]
    assert plain["macs"] > 0

    for file in (tmp_path / "a" / "cells").glob("*repeat1*"):
        file.unlink()
    (tmp_path / "a" / "table.json").unlink()
    kept = json.loads((tmp_path / "a" / "cells" / "plain_cnn-grouped-repeat0-fold0.json").read_text())
    code, out, lines = cdtl("paper", "--resume", "a", "--jobs", "1", "--json")
    assert code == 0, lines
    assert lines.startswith("6 of 9 cells\n7 of 9 cells; Plain CNN, leaky, repeat 1, fold 0")
    again = json.loads(out)
    for row in (*found["rows"], *again["rows"]):
        for split in ("leaky", "grouped"):
            (row[split] or {}).pop("seconds", None)
    assert again == found
    assert set(kept["targets"]) == {"alba"}

    code, _, error = cdtl("paper", "tiny.toml", "--rows", "U-Net, Plain", "--out", "b")
    assert (code, "the row 'Plain' is not in the table" in error) == (3, True)
    assert not (tmp_path / "b").exists()


def test_repeats_differ_and_rows_share_their_splits(cdtl: Cdtl, tmp_path: Path) -> None:
    code, _, lines = cdtl("paper", "tiny.toml", "--rows", "Plain CNN,U-Net", "--out", "a", "--jobs", "1")
    assert code == 0, lines

    def cell(row: str, split: str, repeat: int, fold: int) -> dict[str, Any]:
        file = tmp_path / "a" / "cells" / RowCell(row, split, repeat, fold).file  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(file.read_text())["targets"]["alba"]
        return found

    assert cell("U-Net", "grouped", 0, 1)["images"] == cell("Plain CNN", "grouped", 0, 1)["images"]
    assert cell("Plain CNN", "grouped", 1, 1)["images"] != cell("Plain CNN", "grouped", 0, 1)["images"]
    assert cell("Plain CNN", "leaky", 1, 0)["images"] != cell("Plain CNN", "leaky", 0, 0)["images"]
    folds = [cell("U-Net", "grouped", 0, fold) for fold in (0, 1)]
    assert not set(folds[0]["patients"]) & set(folds[1]["patients"])


def test_a_leaky_split_deals_images_and_says_how_many_leak(cdtl: Cdtl, tmp_path: Path) -> None:
    settings = load_simulation(tmp_path / "tiny.toml")
    save_toml(tmp_path / "alba" / "site.toml", settings.sites[0].model_dump(mode="json", exclude_none=True))
    home = open_site(tmp_path / "alba", settings.run)
    leaky = leaky_site(home, seed=0, test_images=12)
    folds = leaky.cohort.folds
    everyone = np.concatenate([fold.rows for fold in folds.values()])
    assert sorted(everyone.tolist()) == sorted(np.concatenate([f.rows for f in home.cohort.folds.values()]).tolist())
    assert folds["test"].num_images == 12
    assert 0 < leaked_share(leaky) <= 1
    train = set(folds["train"].patients.tolist())
    assert leaked_share(leaky) == np.mean([patient in train for patient in folds["test"].patients.tolist()])
    assert leaked_share(home) == 0
    again = leaky_site(home, seed=0, test_images=12).cohort.folds["test"].rows
    assert again.tolist() == folds["test"].rows.tolist()
    with pytest.raises(DataError, match=r"lower paper\.test_images"):
        leaky_site(home, seed=0, test_images=1000)


def test_the_shipped_table_is_whole_and_written_back_equal(tmp_path: Path) -> None:
    config = with_absolute_paths(load_simulation(find_config(Path("paper"))))
    save_toml(tmp_path / "again.toml", simulation_toml(config))
    assert load_simulation(tmp_path / "again.toml") == config
    table = table_of(config)
    assert {row.row for row in table.rows} >= {
        "Plain CNN",
        "AlexNet",
        "VGG-16",
        "ResNet-18",
        "U-Net",
        "DeepUNet",
        "CDTL",
    }
    assert len({cell.file for cell in cells_of_table(table)}) == sum(1 for _ in cells_of_table(table))
    by_name = {row.row: run_of_row(config, row) for row in table.rows}
    assert by_name["CDTL"] == by_name["EfficientNet-Lite0"] == config.run
    assert by_name["Lite0 levels"] == by_name["Lite0 levels 10 folds"]
    assert by_name["U-Net"].train.batch_size == config.run.train.batch_size


def test_wrong_tables_are_refused(cdtl: Cdtl, tmp_path: Path) -> None:
    def refused(change: Callable[[str], str]) -> tuple[int, str]:
        (tmp_path / "wrong.toml").write_text(change(TINY))
        code, _, error = cdtl("paper", "wrong.toml", "--out", "w", "--jobs", "1")
        assert not (tmp_path / "w").exists()
        return code, error

    for old, new, says in (
        ('target = "alba"', 'target = "absent"', "is not a site"),
        ('row = "U-Net"', 'row = "plain cnn"', "distinct names"),
        ('row = "U-Net"', 'row = "Plain-CNN"', "nearly the same name"),
        ('method = "cdtl"', 'method = "magic"', "the method 'magic' is unknown"),
        ("train.steps = 2", "train.stops = 2", "stops"),
        ('backbone = "unet"', 'backbone = "vnet"', "the backbone 'vnet' is unknown"),
        ("test_images = 12", "test_images = 999", "lower paper.test_images"),
    ):
        code, error = refused(lambda text, old=old, new=new: text.replace(old, new))  # type: ignore[misc]
        assert (code in {3, 4, 5}, says in error) == (True, True), error
    assert (
        "has no [paper] table"
        in refused(lambda text: text[: text.index("[paper]")] + text[text.index("[[sites]]") :])[1]
    )
    assert cdtl("paper", "--resume", "nowhere")[0] == 6
    assert cdtl("paper")[0] == 2
    assert cdtl("paper", "--resume", "x", "--rows", "y")[0] == 2


def test_changes_lie_over_the_run_and_leave_the_rest() -> None:
    run = load_run(find_config(Path("paper")))
    changed = changed_run(run, {"train": {"augment": {"flip": 0.0}}, "model": {"dropout": 0.5}}, "row 'x'")
    assert changed.train.augment.flip == 0
    assert changed.train.augment.noise == run.train.augment.noise
    assert (changed.model.dropout, changed.model.backbone) == (0.5, run.model.backbone)
    with pytest.raises(ConfigError, match=r"train\.lr in row 'x'"):
        changed_run(run, {"train": {"lr": -1}}, "row 'x'")
