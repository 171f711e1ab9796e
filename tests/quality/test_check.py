"""The cohort check: each rule finds a planted fault and is silent without it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cdtl_core.config.modalities import modality_of
from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.facts import ImageFacts, examine_all
from cdtl_core.data.synthetic.phantom import render_phantom
from cdtl_core.errors import ConfigError, DataError
from cdtl_core.quality import RULES, CohortCheck, Entry, as_dict, check_entries, rules_table
from cdtl_core.system.shipped import bundle_root
from tests.quality.planted import facts_of, look, named, write_cohort


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """A clean cohort, drawn once."""
    return write_cohort(tmp_path_factory.mktemp("films"))


@pytest.fixture
def clean(films: list[Entry], tmp_path: Path) -> list[Entry]:
    """A copy of it, to spoil."""
    shutil.copytree(films[0].file.parent, tmp_path / "images")
    return [replace(entry, file=tmp_path / "images" / entry.file.name) for entry in films]


def pixels_of(entry: Entry) -> np.ndarray:
    return np.asarray(Image.open(entry.file))


def saved(entry: Entry, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(entry.file)


def copied(entry: Entry, name: str, **changes: str) -> Entry:
    file = entry.file.with_name(name)
    Image.open(entry.file).save(file)
    return replace(entry, file=file, **changes)


@pytest.mark.parametrize("modality", ["ultrasound", "mammography", "mri", "histology"])
def test_a_clean_cohort_has_no_findings(tmp_path: Path, modality: str) -> None:
    check = look(write_cohort(tmp_path, modality=modality), modality=modality)
    assert named(check) == {}
    assert not check.has_errors


def test_counts_are_of_readable_images(clean: list[Entry]) -> None:
    clean[0].file.write_bytes(b"no image")
    counts = look(clean).counts
    assert (counts.images, counts.readable, counts.patients) == (60, 59, 59)
    assert [(one.label, one.images, one.patients) for one in counts.classes] == [
        ("benign", 40, 40),
        ("malignant", 19, 19),
    ]
    assert counts.sizes == {"128 x 128": 59}
    assert counts.bits == {8: 59}
    assert counts.formats == {"PNG": 59}


def test_truncated_missing_and_foreign_files_are_errors_with_a_sentence(clean: list[Entry]) -> None:
    clean[3].file.write_bytes(clean[3].file.read_bytes()[:3000])
    clean[4].file.unlink()
    clean[5].file.write_text("a letter")
    check = look(clean)
    assert named(check)["unreadable"] == {"case003.png", "case004.png", "case005.png"}
    assert all(finding.message.endswith(".") for finding in check.findings)
    assert check.has_errors


def test_a_constant_image_is_an_error_and_no_duplicate_of_another(clean: list[Entry]) -> None:
    for entry in clean[:2]:
        saved(entry, np.full((128, 128), 17, np.uint8))
    assert named(look(clean)) == {"empty": {"case000.png", "case001.png"}}


def test_a_label_the_site_does_not_have_is_an_error_with_a_guess(clean: list[Entry]) -> None:
    clean[0] = replace(clean[0], label="malignent")
    clean[1] = replace(clean[1], label="")
    check = look(clean)
    assert named(check) == {"label-unknown": {"case000.png", "case001.png"}}
    assert "did you mean 'malignant'?" in " ".join(finding.message for finding in check.findings)


def test_without_known_labels_a_rare_spelling_is_a_typo_and_too_small_a_class(clean: list[Entry]) -> None:
    clean[0] = replace(clean[0], label="Malignant ")
    assert named(look(clean, labels=())) == {"label-typo": {"case000.png"}, "small-class": {"case000.png"}}


def test_a_file_named_or_filed_as_another_class_contradicts_its_label(clean: list[Entry]) -> None:
    folders = {name: clean[0].file.parent / name for name in ("benign", "malignant")}
    for folder in folders.values():
        folder.mkdir()
    clean[0] = moved(clean[0], folders["benign"] / "case.png")
    clean[1] = moved(clean[1], folders["benign"] / "malignant_copy.png")  # the folder decides
    clean[2] = moved(clean[2], clean[2].file.with_name("Malignant (7).png"))
    clean[4] = moved(clean[4], clean[4].file.with_name("non_malignant_7.png"))
    clean[5] = moved(clean[5], clean[5].file.with_name("benign_or_malignant.png"))
    assert named(look(clean)) == {"label-contradicted": {"case.png", "Malignant (7).png"}}


def moved(entry: Entry, target: Path) -> Entry:
    return replace(entry, file=entry.file.rename(target))


def test_a_class_needs_three_patients_and_wants_ten(clean: list[Entry]) -> None:
    one_woman = [replace(entry, patient="p") if entry.label == "malignant" else entry for entry in clean]
    check = look(one_woman)
    assert set(named(check)) == {"small-class"}
    assert "'malignant' has 1 patient," in check.findings[0].message
    assert set(named(look([entry for entry in clean if entry.label == "benign" or int(entry.patient[1:]) < 12]))) == {
        "few-patients"
    }
    assert "small-class" in named(look(clean, labels=("benign", "malignant", "normal")))


def test_the_same_pixels_in_another_file_are_an_exact_duplicate(clean: list[Entry]) -> None:
    other = copied(clean[4], "again.bmp", patient="someone")
    check = look([*clean, other])
    assert named(check) == {"exact-duplicate": {"case004.png", "again.bmp"}}
    assert not check.has_errors
    assert check.counts.duplicate_pairs == 1


def test_a_changed_copy_is_a_near_duplicate(clean: list[Entry]) -> None:
    other = copied(clean[4], "again.jpg", patient="someone")
    pixels = pixels_of(clean[4]).astype(float)
    noisy = 0.9 * pixels + 8 + np.random.default_rng(0).normal(0, 3, pixels.shape)
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).resize((160, 160)).save(other.file, quality=60)
    check = look([*clean, other])
    assert named(check) == {"near-duplicate": {"case004.png", "again.jpg"}}
    assert check.counts.opposite_pairs == 0


def test_a_copy_with_the_opposite_label_is_an_error_that_names_both(clean: list[Entry]) -> None:
    other = copied(clean[4], "again.jpg", patient="someone", label="malignant")
    check = look([*clean, other])
    assert check.findings[0].rule == "opposite-labels"
    assert [file.name for file in check.findings[0].files] == ["case004.png", "again.jpg"]
    assert check.has_errors
    assert check.counts.opposite_pairs == 1


def test_many_copies_of_one_image_are_one_finding(clean: list[Entry]) -> None:
    copies = [copied(clean[4], f"copy{i}.png", patient=f"c{i}") for i in range(40)]
    findings = look([*clean, *copies]).findings
    assert [(finding.rule, len(finding.files)) for finding in findings] == [("exact-duplicate", 41)]


def test_a_copy_in_another_split_is_an_error(clean: list[Entry]) -> None:
    split = [replace(entry, split="train") for entry in clean]
    other = copied(split[4], "again.png", patient="someone", split="test")
    assert "duplicate-across-splits" in named(look([*split, other]))
    assert "duplicate-across-splits" not in named(look([*split, replace(other, split="train")]))


def test_a_patient_in_train_and_test_is_an_error_that_does_not_name_the_patient(clean: list[Entry]) -> None:
    clean[0] = replace(clean[0], split="train", patient="Jane Doe")
    clean[3] = replace(clean[3], split="test", patient="Jane Doe")
    clean[6] = replace(clean[6], split="validation")
    check = look(clean)
    assert named(check) == {
        "patient-in-two-splits": {"case000.png", "case003.png"},
        "split-unknown": {"case006.png"},
    }
    assert "Jane" not in json.dumps(as_dict(check))


def test_a_missing_patient_is_an_error(clean: list[Entry]) -> None:
    clean[7] = replace(clean[7], patient="")
    assert named(look(clean)) == {"patient-missing": {"case007.png"}}


@pytest.mark.parametrize("count", [1, 5, 15])
def test_inverted_films_are_found(clean: list[Entry], count: int) -> None:
    for entry in clean[:count]:
        saved(entry, 255 - pixels_of(entry))
    found = named(look(clean))
    assert set(found) == {"polarity"}
    assert found["polarity"] <= {entry.file.name for entry in clean[:count]}
    assert len(found["polarity"]) >= count - count // 10


def test_burned_in_text_is_found_light_or_dark(clean: list[Entry]) -> None:
    for entry, fill, ground in ((clean[0], 255, 0), (clean[1], 0, 255)):
        image = Image.fromarray(pixels_of(entry)).resize((256, 256))
        draw = ImageDraw.Draw(image)
        draw.rectangle((20, 8, 140, 28), fill=ground)
        draw.text((24, 10), "DOE JANE 1961", fill=fill)
        image.save(entry.file)
    assert named(look(clean))["burned-in-text"] == {"case000.png", "case001.png"}


def test_a_colour_photo_among_films_is_found(clean: list[Entry]) -> None:
    rows, columns = np.mgrid[0:128, 0:128]
    saved(clean[2], np.stack([rows * 2, columns * 2, 255 - rows], axis=2).astype(np.uint8))
    assert named(look(clean)) == {"colour": {"case002.png"}}


def test_a_gray_image_among_stained_tissue_is_found(tmp_path: Path) -> None:
    entries = write_cohort(tmp_path, modality="histology")
    saved(entries[2], np.asarray(Image.open(entries[2].file).convert("L")))
    assert named(look(entries, modality="histology")) == {"colour": {"case002.png"}}


def test_a_mammogram_among_ultrasound_images_is_a_stranger(tmp_path: Path) -> None:
    entries = write_cohort(tmp_path, modality="ultrasound")
    saved(entries[2], render_phantom("mammography", False, np.random.default_rng(5), 128))
    assert "case002.png" in named(look(entries, modality="ultrasound")).get("stranger", set())


def test_a_tiny_image_and_another_bit_depth_are_found(clean: list[Entry]) -> None:
    saved(clean[0], pixels_of(clean[0])[::5, ::5])
    saved(clean[1], pixels_of(clean[1]).astype(np.uint16) * 257)
    found = named(look(clean))
    assert found["odd-size"] == {"case000.png"}
    assert found["mixed-bits"] == {"case001.png"}


@pytest.fixture
def tagged(clean: list[Entry]) -> Callable[..., CohortCheck]:
    """Check the clean cohort as if its files were DICOM; the first 2 with other tags."""
    usual = DicomTags("MG", "MONOCHROME2", burned_in=False, patient_id="", accession="", sop_uid="", frames=1)

    def check(**tags: object) -> CohortCheck:
        facts = [one for one in facts_of([entry.file for entry in clean]) if isinstance(one, ImageFacts)]
        facts = [replace(one, tags=replace(usual, **tags) if i < 2 else usual) for i, one in enumerate(facts)]  # type: ignore[arg-type]
        return check_entries(clean, facts, modality=modality_of("mammography"))

    return check


def test_a_dicom_header_of_another_modality_is_an_error(tagged: Callable[..., CohortCheck]) -> None:
    assert named(tagged(modality="US")) == {"modality-tag": {"case000.png", "case001.png"}}
    assert named(tagged(modality="OT")) == {}


def test_a_dicom_header_that_says_burned_in_is_believed(tagged: Callable[..., CohortCheck]) -> None:
    assert named(tagged(burned_in=True)) == {"burned-in-text": {"case000.png", "case001.png"}}


def test_a_class_that_is_brighter_is_a_shortcut(clean: list[Entry]) -> None:
    for entry in clean:
        if entry.label == "malignant":
            saved(entry, (60 + 0.6 * pixels_of(entry)).astype(np.uint8))
    check = look(clean, switched_off={"polarity": "exposure differs by design", "stranger": "so"})
    shortcuts = [finding for finding in check.findings if finding.rule == "shortcut"]
    assert len(shortcuts) == 1
    assert "AUROC 1.00" in shortcuts[0].message


def test_a_rule_switched_off_with_a_reason_is_listed_as_waived_and_stops_nothing(clean: list[Entry]) -> None:
    clean[7] = replace(clean[7], patient="")
    check = look(clean, switched_off={"patient-missing": "one image per woman, by protocol"})
    assert check.findings[0].waived == "one image per woman, by protocol"
    assert not check.has_errors
    with pytest.raises(ConfigError, match="no rule 'spelling'"):
        look(clean, switched_off={"spelling": "why not"})
    with pytest.raises(ConfigError, match="without a reason"):
        look(clean, switched_off={"shortcut": " "})


def test_facts_of_other_entries_are_refused(clean: list[Entry]) -> None:
    with pytest.raises(DataError, match=r"2 images are listed and 1 were examined"):
        check_entries(clean[:2], examine_all([clean[0].file]), modality=modality_of("mammography"))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_smallest_cohorts_are_checked_too(clean: list[Entry], count: int) -> None:
    check = look(clean[:count])
    assert check.counts.readable == count
    assert set(named(check)) == {"small-class"}


def test_the_check_is_plain_json(clean: list[Entry]) -> None:
    plain = json.loads(json.dumps(as_dict(look([*clean, copied(clean[4], "again.jpg", label="malignant")]))))
    assert plain["has_errors"] is True
    assert plain["findings"][0]["files"][1].endswith("again.jpg")
    assert plain["counts"]["bits"] == {"8": 61}


def test_the_docs_list_every_rule_as_the_code_has_it() -> None:
    text = (bundle_root() / "docs" / "checks.md").read_text(encoding="utf-8")
    assert rules_table() in text
    assert len({rule.id for rule in RULES}) == len(RULES)
