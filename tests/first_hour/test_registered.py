"""What a script registers and gets wrong: the sentence names the cause, in the first seconds where that is possible."""

from pathlib import Path

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
