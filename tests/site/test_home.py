"""Opening a site's folder: stored splits, contract, and no patient names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.deploy.enrolling import enrol_site
from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import check_contract, enrolled_contract
from cdtl_core.site.cohort import contract_of, open_cohort
from cdtl_core.site.home import open_site
from cdtl_core.site.session import describe_site

RUN = RunConfig.model_validate({"image": {"size": 32}, "model": {"backbone": "test_efficientnet", "weights": "random"}})


def add_patients(folder: Path, first: int, last: int) -> None:
    rng = np.random.default_rng(first)
    lines = [] if (folder / "m.csv").exists() else ["file,label,patient_id"]
    for i in range(first, last):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{('benign', 'malignant')[i % 2]},MRN-{i:04d}")
    with open(folder / "m.csv", "a") as file:
        file.write("\n".join(lines) + "\n")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    add_patients(tmp_path, 0, 20)
    (tmp_path / "home").mkdir()
    write_settings(tmp_path / "home")
    return tmp_path / "home"


def write_settings(home: Path, more: str = "") -> None:
    own = f'site = "north"\nmodality = "ultrasound"\n{more}\n[data]\nroot = "{home.parent}"\nmanifest = "m.csv"\n'
    (home / SITE_FILE).write_text(own)


def splits(home: Path, run: RunConfig = RUN) -> dict[str, str]:
    cohort = open_site(home, run).cohort
    return {cohort.files[row]: name for name, fold in cohort.folds.items() for row in fold.rows}


def test_no_patient_moves_when_others_are_added(home: Path) -> None:
    before = splits(home)
    add_patients(home.parent, 20, 50)
    write_settings(home, 'device = "cpu"')  # another opening of the same folder
    after = splits(home)
    assert len(after) == 50
    assert {file: after[file] for file in before} == before
    assert set(after.values()) == {"train", "val", "test"}


def test_another_seed_is_another_split(home: Path) -> None:
    assert splits(home) != splits(home, RUN.model_copy(update={"seed": 1}))


def test_no_file_that_opening_writes_names_a_patient(home: Path) -> None:
    splits(home)
    written = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".npy"]
    assert any(path.parent.name == "splits" for path in written)
    assert [path for path in written if b"MRN" in path.read_bytes()] == []


def test_a_lost_key_with_kept_splits_is_refused_not_silently_split_again(home: Path) -> None:
    splits(home)
    (home / "patient.key").unlink()
    write_settings(home, 'device = "cpu"')
    with pytest.raises(DataError, match=r"patient\.key"):
        splits(home)


def test_the_contract_says_what_the_cohort_is_and_statistics_only_when_allowed(home: Path) -> None:
    contract = contract_of(home, open_cohort(home, RUN), RUN.task)
    assert (contract.modality, contract.channels, contract.bit_depth, contract.patients) == ("ultrasound", 1, 8, 20)
    assert contract.statistics is None
    check_contract(contract, RUN, "a" * 64)
    write_settings(home, "publish = { pixel_statistics = true, initial_weights_hash = '" + "b" * 64 + "' }")
    told = contract_of(home, open_cohort(home, RUN), RUN.task)
    assert told.statistics is not None
    assert 100 < told.statistics.mean < 155
    assert 30 < told.statistics.std < 85
    with pytest.raises(FederationError, match="initial_weights_hash"):
        check_contract(told, RUN, "a" * 64)


def test_a_site_that_has_grown_takes_part_as_it_enrolled_and_says_what_to_do(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enrol_site(home, RUN)
    add_patients(home.parent, 20, 90)
    write_settings(home, 'device = "cpu"')
    told = wire.decode_introduction(describe_site(wire.encode_question("0" * 64), home, RUN))
    assert told.contract == enrolled_contract(home)
    assert (told.contract.patients, told.member.num_patients, told.holds_initial_weights) == (20, 24, False)
    assert "patients changed since it enrolled" in caplog.text
    assert "cdtl site init" in caplog.text


def test_a_site_enrolled_for_other_labels_says_so_before_anything_leaves(home: Path) -> None:
    enrol_site(home, RUN)
    other = {**RUN.model_dump(), "task": {"labels": ["malignant", "benign"], "positive": "malignant"}}
    with pytest.raises(FederationError, match="enrolled with another labels"):
        describe_site(wire.encode_question("0" * 64), home, RunConfig.model_validate(other))
