"""Wrong input to ``cdtl compare`` gives one sentence and leaves nothing behind."""

from pathlib import Path

import pytest

from tests.conftest import Cdtl
from tests.simulation.test_compare import TINY


@pytest.fixture(autouse=True)
def _configuration(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--methods", "alone,fedsgd"), 3, "the method 'fedsgd' is unknown"),
        (("--methods", "alone,cdtl:nothing"), 3, "the control 'cdtl:nothing' is unknown"),
        (("--methods", "cdtl"), 3, "add alone"),
        (("--methods", "alone,alone"), 3, "methods has a repeated value"),
        (("--methods", "alone,own_twice:shuffled"), 3, "the control 'own_twice:shuffled' is unknown"),
        (("--methods", "alone,cdtl", "--sites", "alba"), 3, "site alba has no other site"),
        (("--donors", "some"), 3, "donors has 'some'"),
        (("--donors", "all,all"), 3, "donors has a repeated value"),
        (("--target", "rome"), 3, "the target 'rome' is not a site"),
        (("--sites", "alba,rome"), 3, "the site 'rome' is not a site"),
        (("--sites", "como", "--target", "alba"), 3, "use como"),
        (("--runs", "0"), 3, "1 run"),
        (("--patients", "500", "--target", "alba"), 4, "500 are requested"),
        (("--patients", "few"), 3, "patients has 'few'"),
        (("--folds", "1"), 3, "at least 2 folds"),
        (("--folds", "9", "--target", "como"), 4, "has no patient in the"),
        (("--seeds", "0"), 3, "1 seed"),
        (("--set", "dp.enabled=true"), 3, "dp.enabled = false"),
        (("--set", "train.lrr=1"), 3, "train.lrr"),
        (("--set", "model.backbone=resnet0"), 5, "resnet0"),
        (("--out", "tiny.toml"), 6, "is a file"),
        (("--resume", "x"), 2, "not both"),
        (("--jobs", "0"), 2, "--jobs"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    cdtl: Cdtl, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    found, _, error = cdtl("compare", "tiny.toml", *arguments)
    assert (found, says in error) == (code, True), error
    assert "Traceback" not in error
    assert code == 2 or error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.toml", "runs"}
    assert not any((tmp_path / "runs").glob("*"))


def test_resuming_takes_no_new_settings(cdtl: Cdtl) -> None:
    for own in (
        ("--set", "train.lr=0.1"),
        ("--seeds", "3"),
        ("--donors", "all"),
        ("--methods", "alone"),
        ("--target", "alba"),
    ):
        found, _, error = cdtl("compare", "--resume", "a", *own)
        assert (found, "remove all options but" in error) == (2, True), error
    found, _, error = cdtl("compare", "--resume", "nowhere")
    assert (found, "holds no study" in error) == (6, True)
