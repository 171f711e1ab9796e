"""What a script registers and gets wrong: the sentence names the cause, in the first seconds where that is possible."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import cdtl_core
from cdtl_core.errors import CdtlError
from tests.conftest import Cdtl
from tests.first_hour.conftest import Install

pytestmark = pytest.mark.integration
ONE_ROUND = ("--set", "federation.rounds=1", "--set", "methods=fedbn", "--out", "run")


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda logits, labels: cross_entropy(logits, labels), "failed on a small batch (TypeError: "),
        (
            lambda logits, labels, weight: cross_entropy(logits, labels, weight, reduction="none"),
            "of shape (4,): return",
        ),
        (lambda logits, labels, weight: cross_entropy(logits, labels, weight).item(), "returned float: return one"),
        (lambda logits, labels, weight: cross_entropy(logits.detach(), labels), "without a gradient: return one"),
    ],
)
@pytest.mark.usefixtures("install")
def test_a_loss_that_no_training_could_use_is_refused_before_any_image(cdtl: Cdtl, loss: object, says: str) -> None:
    cdtl_core.register_loss("mine", loss)  # type: ignore[arg-type]
    done = cdtl("simulate", "tiny", "--set", "train.loss=mine", *ONE_ROUND)
    assert (done.code, "the loss 'mine'" in done.err, says in done.err) == (3, True, True), done.err
    assert not Path("run").exists()
    Path("study.toml").write_text('[train]\nloss = "mine"\n')
    done = cdtl("config", "check", "study.toml")
    assert (done.code, says in done.err) == (3, True)


def test_a_simulation_that_fails_names_the_cause_and_the_log_with_the_traceback(cdtl: Cdtl, install: Install) -> None:
    def late(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if logits[0, 0].item() != -1.0:  # not in the check at the start
            raise KeyError("no such table\nfor these images")
        return cross_entropy(logits, labels, weight)

    del install
    cdtl_core.register_loss("late", late)
    done = cdtl("simulate", "tiny", "--set", "train.loss=late", *ONE_ROUND)
    assert done.code == 1
    assert done.err.splitlines()[-1] == (
        r"Error: site north: KeyError: 'no such table\nfor these images'. The traceback is in run/sites.log."
    )
    assert "in late" in Path("run/sites.log").read_text()
    config = cdtl_core.load_config("tiny", ["train.loss=late", "methods=fedbn"])
    with pytest.raises(CdtlError, match=r"KeyError: .* The traceback is in again/sites.log") as failed:
        cdtl_core.simulate(config, "again")
    assert isinstance(failed.value.__cause__, KeyError)  # the author's own lines are in the traceback


@pytest.mark.usefixtures("install")
def test_a_metric_that_fails_is_named_and_nothing_trained_is_lost(cdtl: Cdtl) -> None:
    broken = [True]
    cdtl_core.register_metric("mine", lambda _truth, _score: 1 / 0 if broken else 0.5)
    done = cdtl("simulate", "tiny", *ONE_ROUND)
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith("Error: the metric 'mine' failed (ZeroDivisionError: division by zero)")
    assert "--resume" in done.err
    broken.clear()
    assert cdtl("simulate", "--resume", "run").code == 0


@pytest.mark.usefixtures("install")
def test_what_a_script_registers_is_listed_with_its_own_words(cdtl: Cdtl) -> None:
    def focal(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy that counts hard images more."""
        return cross_entropy(logits, labels, weight)

    cdtl_core.register_loss("focal", focal)
    cdtl_core.register_loss("mine", lambda *given: cross_entropy(*given))
    cdtl_core.register_modality(cdtl_core.Modality("endoscopy", colour=True, dicom=()))
    listed = " ".join(cdtl("config", "list").out.split())
    assert "focal Cross-entropy that counts hard images more." in listed
    assert "mine registered by a script" in listed
    assert "endoscopy colour; no DICOM code" in listed


def test_a_run_is_continued_with_its_file_beside_it_and_not_with_another(cdtl: Cdtl) -> None:
    settings = ("--set", "federation.rounds=1", "--set", "methods=fedbn")
    assert cdtl("simulate", "tiny", *settings, "--out", "run").code == 0
    done = cdtl("simulate", "tiny", *settings, "--resume", "run")
    assert done.code == 0, done.err
    done = cdtl("simulate", "tiny", *settings, "--set", "train.lr=0.25", "--resume", "run")
    assert done.code == 6
    assert "run is a run with other settings (train.lr was " in done.err
    assert "--resume run alone" in done.err


def test_a_value_is_shown_as_toml_has_it(cdtl: Cdtl) -> None:
    assert ", got true." in cdtl("simulate", "tiny", "--set", "train.loss=true").err


@pytest.mark.parametrize(
    ("modality", "says"),
    [
        (cdtl_core.Modality("fundus", colour=True, dicom="OP"), "dicom is 'OP', use a tuple"),  # type: ignore[arg-type]
        (cdtl_core.Modality("fundus", colour=True, dicom=("op",)), r"dicom is \('op',\), use a tuple"),
        (cdtl_core.Modality("fundus", colour="no", dicom=()), "colour is 'no', use True"),  # type: ignore[arg-type]
        ("fundus", "give cdtl_core.Modality"),
    ],
)
def test_a_modality_of_a_wrong_form_is_refused_when_it_is_registered(modality: Any, says: str) -> None:
    with pytest.raises(CdtlError, match=says):
        cdtl_core.register_modality(modality)


def test_what_is_no_function_is_refused_when_it_is_registered() -> None:
    given: Any = 1.0
    missing: Any = None
    for register in (cdtl_core.register_metric, cdtl_core.register_loss, cdtl_core.register_transform):
        with pytest.raises(CdtlError, match=r"'mine' is 1\.0: give a function of"):
            register("mine", given)
    with pytest.raises(CdtlError, match=r"'mine' is 1\.0: give the function or class"):
        cdtl_core.register_backbone("mine", given)
    with pytest.raises(CdtlError, match=r"'mine' is 1\.0: give a cdtl_core\.Method"):
        cdtl_core.register_method("mine", given)
    with pytest.raises(CdtlError, match="model_of of the method is None: give a function"):
        cdtl_core.Method(lambda _: 0, lambda _f, _s: 0, missing)


def test_a_text_in_place_of_a_list_is_understood_or_refused_as_a_whole() -> None:
    config = cdtl_core.load_config("tiny", "train.lr=0.25")
    assert config.run.train.lr == 0.25
    with pytest.raises(CdtlError, match=r"methods is the text 'alone,fedbn': give a list, such as \["):
        cdtl_core.study_of(config, methods="alone,fedbn")
    with pytest.raises(CdtlError, match="targets is the text 'south'"):
        cdtl_core.study_of(config, targets="south")


@pytest.mark.usefixtures("install")
def test_a_metric_cannot_change_what_the_other_figures_are_computed_from(cdtl: Cdtl) -> None:
    def careless(positive: Any, probability: Any) -> float:
        probability[:] = positive
        return 0.0

    cdtl_core.register_metric("careless", careless)
    done = cdtl("simulate", "tiny", *ONE_ROUND)
    assert (done.code, "the metric 'careless' failed (ValueError: " in done.err) == (3, True), done.err
    assert "read-only" in done.err


def test_the_folder_of_a_comparison_has_no_page_and_its_tables_are_named(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "compare.json").write_text("{}")
    done = cdtl("report", "study")
    assert (done.code, "cdtl compare --resume study prints its tables." in done.err) == (3, True)
