"""The cohort check on real images: known duplicates and planted faults are found, and nothing else."""

import csv
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config.modalities import modality_of
from cdtl_core.data.facts import examine_all
from cdtl_core.quality import CohortCheck, Entry, check_entries

pytestmark = pytest.mark.slow


def entries_of(manifest: Path) -> list[Entry]:
    with open(manifest, newline="", encoding="utf-8") as file:
        return [Entry(manifest.parent / row["file"], row["label"], row["patient_id"]) for row in csv.DictReader(file)]


def checked(entries: Sequence[Entry], modality: str) -> CohortCheck:
    return check_entries(entries, examine_all([entry.file for entry in entries]), modality=modality_of(modality))


def found(check: CohortCheck, rule: str) -> set[str]:
    return {file.name for finding in check.findings if finding.rule == rule for file in finding.files}


def everything(check: CohortCheck) -> set[tuple[str, str]]:
    """Each rule with each file it names; findings without files stand for themselves."""
    return {(f.rule, file.name) for f in check.findings for file in f.files} | {
        (f.rule, "") for f in check.findings if not f.files
    }


def test_busi_has_194_near_duplicate_pairs_nine_with_opposite_labels(data_root: Path) -> None:
    check = checked(entries_of(data_root / "busi" / "manifest.csv"), "ultrasound")
    assert check.counts.duplicate_pairs == 194
    assert check.counts.opposite_pairs == 9
    assert sum(finding.rule == "opposite-labels" for finding in check.findings) == 9
    assert check.has_errors
    assert len(found(check, "polarity")) <= 2


def test_bus_bra_has_no_duplicates_and_is_checked_within_a_minute(data_root: Path) -> None:
    entries = entries_of(data_root / "bus_bra" / "manifest.csv")
    start = time.monotonic()
    check = checked(entries, "ultrasound")
    assert time.monotonic() - start < 60
    assert check.counts.duplicate_pairs == 0
    assert not check.has_errors
    assert {finding.rule for finding in check.findings} <= {"polarity", "burned-in-text"}
    assert len(found(check, "polarity")) <= 4  # over-exposed images


def test_histology_tiles_are_clean_but_for_blank_ones(data_root: Path) -> None:
    check = checked(entries_of(data_root / "ucsb_he" / "manifest.csv"), "histology")
    assert not check.has_errors
    assert check.counts.duplicate_pairs == 0
    assert len(found(check, "colour") | found(check, "stranger") | found(check, "polarity")) <= 16


@pytest.mark.parametrize("host", ["busi", "bus_bra"])
def test_mammograms_in_an_ultrasound_set_are_strangers_and_nothing_else_is(data_root: Path, host: str) -> None:
    entries = entries_of(data_root / host / "manifest.csv")
    films = entries_of(data_root / "mini_mias" / "manifest.csv")
    planted = [films[i] for i in np.random.default_rng(0).permutation(len(films))[:5]]
    check = checked([*entries, *planted], "ultrasound")
    strangers = found(check, "stranger")
    assert strangers <= {entry.file.name for entry in planted}
    assert len(strangers) >= 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_fault_planted_among_whole_films_is_found_and_nothing_else(
    data_root: Path, tmp_path: Path, seed: int
) -> None:
    entries, rng = copied(data_root / "mini_mias", "manifest.csv", tmp_path), np.random.default_rng(seed)
    clean = checked(entries, "mammography")
    order = iter(rng.permutation(len(entries)))
    inverted = [entries[next(order)] for _ in range(20)]
    for entry in inverted:
        invert(entry.file)
    planted = plant(entries, [entries[next(order)] for _ in range(11)], tmp_path, rng)
    check = checked([*entries, *planted.added], "mammography")
    expect(check, clean, planted)
    assert found(check, "polarity") == {entry.file.name for entry in inverted}
    new = everything(check) - everything(clean)
    assert new == planted.expected | {("polarity", entry.file.name) for entry in inverted}


def test_every_fault_planted_among_lesion_crops_is_found_and_nothing_else(data_root: Path, tmp_path: Path) -> None:
    entries, rng = copied(data_root / "mini_mias", "roi_manifest.csv", tmp_path), np.random.default_rng(0)
    clean = checked(entries, "mammography")
    assert not clean.findings
    planted = plant(entries, [entries[i] for i in rng.permutation(len(entries))[:11]], tmp_path, rng)
    check = checked([*entries, *planted.added], "mammography")
    expect(check, clean, planted)
    assert everything(check) - everything(clean) == planted.expected


class Planted:
    """Changes of a copy, and the (rule, file) pairs that they must cause."""

    def __init__(self) -> None:
        self.added: list[Entry] = []
        self.expected: set[tuple[str, str]] = set()


def plant(entries: list[Entry], victims: list[Entry], folder: Path, rng: np.random.Generator) -> Planted:
    """5 truncated, 3 copied under the other class, 3 moved to the other class's folder, 1 photo; `entries` change."""
    planted = Planted()
    for entry in victims[:5]:
        entry.file.write_bytes(entry.file.read_bytes()[: entry.file.stat().st_size // 2])
        planted.expected.add(("unreadable", entry.file.name))
    for entry in victims[5:8]:
        other = "malignant" if entry.label != "malignant" else "benign"
        copy = entry.file.parents[1] / other / f"copy_{entry.file.name}"
        Image.open(entry.file).save(copy, compress_level=1)  # other bytes, same pixels
        planted.added.append(Entry(copy, other, f"other_{entry.patient}"))
        planted.expected |= {
            (rule, file.name) for rule in ("opposite-labels", "exact-duplicate") for file in (entry.file, copy)
        }
    for entry in victims[8:11]:
        other = "malignant" if entry.label != "malignant" else "benign"
        moved = entry.file.parents[1] / other / f"moved_{entry.file.name}"
        shutil.move(entry.file, moved)
        entries[entries.index(entry)] = Entry(moved, entry.label, entry.patient)
        planted.expected.add(("label-contradicted", moved.name))
    photo = folder / "photo.jpg"
    Image.fromarray(colour_photo(rng)).save(photo)
    planted.added.append(Entry(photo, "benign", "someone"))
    planted.expected.add(("colour", photo.name))
    return planted


def expect(check: CohortCheck, clean: CohortCheck, planted: Planted) -> None:
    assert planted.expected <= everything(check)
    assert len(found(check, "unreadable")) == 5
    assert len([f for f in check.findings if f.rule == "opposite-labels"]) == 3
    assert {file for rule, file in planted.expected if rule == "colour"} == found(check, "colour")
    assert not clean.has_errors


def copied(source: Path, manifest: str, folder: Path) -> list[Entry]:
    entries = []
    for entry in entries_of(source / manifest):
        target = folder / entry.file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(entry.file, target)
        entries.append(Entry(target, entry.label, entry.patient))
    return entries


def invert(file: Path) -> None:
    Image.fromarray(255 - np.asarray(Image.open(file).convert("L"))).save(file)


def colour_photo(rng: np.random.Generator) -> np.ndarray:
    """Sky, grass and coloured blobs, 480 x 640."""
    rows, columns = np.mgrid[0:480, 0:640]
    image = np.where((rows < 240)[..., None], [110, 160, 230], [60, 140, 50]).astype(float)
    for _ in range(12):
        row, column, radius = rng.uniform(0, 480), rng.uniform(0, 640), rng.uniform(20, 90)
        image[np.hypot(rows - row, columns - column) < radius] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
