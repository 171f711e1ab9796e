"""`cdtl data pull` by DICOMweb, C-GET and C-MOVE: what arrives, continues and fails, and what is never written."""

import csv
import json
import logging
import re
from pathlib import Path

import pytest

from cdtl_core.deploy.log_check import check_log
from cdtl_core.pacs.journal import log_files
from tests.deploy.loopback import write_certificates
from tests.pacs.conftest import STUDIES, Cdtl, left, serve, table
from tests.pacs.peers import SmallPacs
from tests.pacs.studies import image, known
from tests.tables import Tries


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "manifest.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_pull_brings_the_labelled_studies_and_a_manifest_that_the_check_reads(
    settings: Path, tmp_path: Path, cdtl: Cdtl
) -> None:
    code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", settings, "--accessions", table(tmp_path, range(4)))
    assert (code, "4 studies with 16 images" in told) == (0, True), told
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700  # patients' images are for this account alone
    found = rows(tmp_path / "out")
    assert (len(found), len({row["exam_id"] for row in found}), len({row["patient_id"] for row in found})) == (16, 4, 2)
    assert {row["label"] for row in found} == {"benign", "malignant"}
    code, told = cdtl("data", "check", tmp_path / "out", "--modality", "ultrasound", "--unit", "exam", "--json")
    refused = {one["rule"] for one in json.loads(told)["findings"] if one["severity"] == "error"}
    assert refused <= {"small-class", "opposite-labels"}, told
    assert check_log(log_files(tmp_path / "out")).faults == []


def test_all_protocols_leave_the_same_bytes(pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl) -> None:
    found = []
    for protocol in ("dicomweb", "c-get", "c-move"):
        for path in serve(protocol, pacs, tmp_path):
            code, told = cdtl("data", "pull", tmp_path / protocol, "--pacs", path, "--modality", "US", "--label", "x")
            assert code == 0, told
        found.append(left(tmp_path / protocol))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4 * STUDIES + 1


@pytest.mark.parametrize("protocol", ["dicomweb", "c-get", "c-move"])
def test_a_pull_over_tls_shows_and_checks_certificates(
    protocol: str, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    own, other = write_certificates(tmp_path / "own"), write_certificates(tmp_path / "other")
    for path in serve(protocol, pacs, tmp_path, own):
        command = ("data", "pull", tmp_path / "out", "--pacs", path, "--accessions", table(tmp_path, [0]))
        code, told = cdtl(*command)
        assert (code, "1 study with 4 images" in told) == (0, True), told
        pacs.asked.clear()
        path.write_text(path.read_text(encoding="utf-8").replace(str(own.ca), str(other.ca)), encoding="utf-8")
        code, told = cdtl(*command)
        sentence = "is not trusted" if protocol == "dicomweb" else "are the certificates right"
        assert (code, sentence in told, pacs.asked) == (4, True, []), told


def test_what_a_c_move_without_an_authority_trusts_is_said(pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl) -> None:
    sentence = "trusts any program that gives the AE title"
    for protocol, certificates in (("c-move", None), ("c-move", write_certificates(tmp_path / "own")), ("c-get", None)):
        for path in serve(protocol, pacs, tmp_path, certificates):
            code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", path, "--accessions", table(tmp_path, [0]))
            alone = protocol == "c-move" and certificates is None
            assert (code, told.count(sentence)) == (0, int(alone)), told


def test_a_broken_transfer_is_tried_again_and_a_second_pull_only_extends(
    settings: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    pacs.break_after = 2
    command = ("data", "pull", tmp_path / "out", "--pacs", settings, "--accessions")
    code, told = cdtl(*command, table(tmp_path, range(2)))
    assert code == 0, told
    assert pacs.break_after == 0
    first = left(tmp_path / "out")
    pacs.asked.clear()
    code, told = cdtl(*command, table(tmp_path, range(3)))
    assert (code, "1 study with 4 images" in told, "before: 2 studies" in told) == (0, True, True), told
    fetched = [one for one in pacs.asked if re.match(r"get|move|/dicom-web/studies/[^?/]+$", one)]
    assert len(fetched) == 1
    assert known(2).uid in fetched[0]
    second = left(tmp_path / "out")
    assert {name: second[name] for name in first if name != "manifest.csv"} == {
        name: value for name, value in first.items() if name != "manifest.csv"
    }


def test_what_fails_is_named_by_its_hash_the_others_arrive_and_the_code_says_so(
    settings: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    damaged = next(one for one in pacs.images if one.StudyInstanceUID == known(1).uid)
    damaged.add_new(0x7FE00010, "OB", damaged.PixelData[:100])
    listed = table(tmp_path, [0, 1, 2, 700])
    code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", settings, "--accessions", listed)
    sentences = ("1 study missing", "1 accession number not in the PACS")
    assert (code, [one in told for one in sentences]) == (4, [True, True]), told
    assert len({row["exam_id"] for row in rows(tmp_path / "out")}) == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "pull.jsonl").read_text(encoding="utf-8").splitlines()]
    (failed,) = [line for line in lines if line.get("outcome") == "failed"]
    assert failed["study"] in told
    assert "cut short" in failed["reason"]
    assert [line["kind"] for line in lines].count("missing") == 1


def test_images_with_burned_in_names_are_left_out_and_counted(
    web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    pacs.images[0].BurnedInAnnotation = "YES"
    code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", table(tmp_path, [0]))
    assert (code, "Left out: 1 image (names may be burned into the image)" in told) == (0, True), told
    assert len(rows(tmp_path / "out")) == 3


def test_slices_are_one_row_and_a_changed_file_is_fetched_again(
    web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    pacs.images = [image(0, 0, place, size=32, modality="CT") for place in range(5)]
    command = ("data", "pull", tmp_path / "out", "--pacs", web, "--modality", "ct", "--label", "x")
    assert cdtl(*command)[0] == 0
    (row,) = rows(tmp_path / "out")
    before = left(tmp_path / "out")
    assert (tmp_path / "out" / row["file"]).is_dir()
    changed = sorted((tmp_path / "out" / row["file"]).iterdir())[2]
    changed.write_bytes(changed.read_bytes()[:-1] + b"\7")
    assert "0 studies" in cdtl(*command)[1]
    assert "1 study" in cdtl(*command, "--verify")[1]
    assert left(tmp_path / "out") == before


def test_an_edited_journal_is_refused(web: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    command = ("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", table(tmp_path, range(2)))
    assert cdtl(*command)[0] == 0
    journal = tmp_path / "out" / "pull.jsonl"
    whole = journal.read_text(encoding="utf-8")
    journal.write_text(whole.replace('"label": "benign"', '"label": "malign"'), encoding="utf-8")
    code, told = cdtl(*command)
    assert (code, "is damaged or was edited" in told) == (6, True), told
    journal.write_text(whole[:-40], encoding="utf-8")  # as a kill leaves it
    assert cdtl(*command)[0] == 0


def test_a_dry_run_counts_and_writes_nothing(settings: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", settings, "--modality", "ultrasound", "--dry-run")
    assert (code, f"{STUDIES} studies with {2 * STUDIES} series and {4 * STUDIES} images" in told) == (0, True), told
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "patient.key").exists()


def test_the_conditions_select(web: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    out = tmp_path / "out"
    base = ("data", "pull", out, "--pacs", web, "--label", "x")
    code, told = cdtl(*base, "--since", "2024-02-01", "--until", "2024-03-31", "--series-description", "VIEW 1")
    assert (code, "2 studies with 4 images" in told) == (0, True), told
    code, told = cdtl(*base, "--modality", "mammography")
    assert "no study that meets these conditions" in told
    code, told = cdtl("data", "pull", out, "--pacs", web)
    assert (code, "the whole PACS" in told) == (3, True)


@pytest.mark.attack("no identifier leaves the PACS commands", "identifiers of 6 studies in files, logs, output")
def test_no_identifier_is_in_any_file_name_log_or_output(
    settings: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl, caplog: pytest.LogCaptureFixture, tries: Tries
) -> None:
    pacs.images[5].add_new(0x7FE00010, "OB", b"short")
    secrets = {"ROE", "JANE", "DOE", "19610203", "General", "BREAST"}
    for number in range(STUDIES):
        one = known(number)
        secrets |= {one.uid, one.accession, one.patient}
    with caplog.at_level(logging.DEBUG):
        told = cdtl("data", "pull", tmp_path / "out", "--pacs", settings, "--modality", "US", "--label", "x")[1]
    assert "1 study missing" in told
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    names = "\n".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    everything = written + (told + names + caplog.text).encode()
    for secret in secrets:
        tries.add()
        assert secret.encode() not in everything, secret
