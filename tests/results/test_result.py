"""A site's result: log-loss and calibration of each candidate by hand, and the sentences for physicians."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cdtl_core.config import RunConfig
from cdtl_core.deploy.rehearsal import _of_own_model
from cdtl_core.report.charts.blend_figures import donor_forest, donor_heat, donors_sentence, shares_sentence
from cdtl_core.report.headline import headline_of, selection_sentence
from cdtl_core.report.shared import why_no_shares
from cdtl_core.results.material import choice_of
from cdtl_core.results.report import Estimate, MethodResult, ModelChoice
from cdtl_core.results.scores import Scores, candidate_losses, log_loss_changes, read_scores, with_own_model


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def scores(calibrated: bool) -> Scores:
    """Two candidates and twelve patients; the own model is far too sure, and its calibration says so."""
    positive = np.arange(12) % 2 == 1
    columns = {"p_own": np.where(positive, 0.9, 0.1), "p_pool": np.where(positive, 0.8, 0.2)}
    columns["p_own"][:2] = 0.99, 0.01  # wrong, and sure of it
    found = {"own": np.full(12, 0.5), "pool": np.where(positive, 0.7, 0.3)} if calibrated else {}
    return Scores(tuple(map(str, range(12))), positive, np.arange(12), columns, "pool", found)


def test_log_loss_of_candidates_is_that_of_calibrated_probabilities() -> None:
    losses, changes = candidate_losses(scores(calibrated=True), seed=0)
    assert losses["own"].value == pytest.approx(math.log(2))
    assert losses["pool"].value == pytest.approx(-math.log(0.7))
    assert changes["pool"].value == pytest.approx(-math.log(0.7) - math.log(2))
    assert changes["pool"].high < 0
    assert set(changes) == {"pool"}


def test_without_calibration_they_are_raw_and_a_sure_mistake_is_dear() -> None:
    losses, changes = candidate_losses(scores(calibrated=False), seed=0)
    assert losses["own"].value == pytest.approx(-(10 * math.log(0.9) + 2 * math.log(0.01)) / 12)
    assert changes["pool"].value == pytest.approx(-math.log(0.8) - losses["own"].value)
    assert changes["pool"].low < changes["pool"].value < changes["pool"].high


def test_the_model_trained_alone_is_judged_as_the_pool_is() -> None:
    """Calibrated too: raw it would look worse than a site that trains alone has it."""
    alone = with_own_model({"cdtl": scores(calibrated=True)})["alone"]
    assert alone.probability.tolist() == [0.5] * 12
    change = log_loss_changes({"cdtl": scores(calibrated=True)}, seed=0)["cdtl-alone"]
    assert change.value == pytest.approx(-math.log(0.7) - math.log(2))


@pytest.mark.parametrize("columns", [["p_own", "p_pool"], ["p_own", "p_pool", "p_calibrated"]])
def test_scores_of_earlier_versions_are_read(tmp_path: Path, columns: list[str]) -> None:
    """They hold the chosen candidate's calibrated column alone, or none."""
    rows = [f"{i}.png,{i},{i % 2}" + ",0.25" * len(columns) for i in range(12)]
    (tmp_path / "scores.csv").write_text("\n".join([",".join(["image", "patient", "positive", *columns]), *rows]))
    note = {"chosen": "pool", "validation_log_loss": {"own": 0.5}, "pool": {"share": 1.0, "by": "equal"}}
    (tmp_path / "model.json").write_text(json.dumps(note))
    found = read_scores(tmp_path)
    assert found is not None
    assert found.candidates == ("own", "pool")
    assert found.is_calibrated == ("p_calibrated" in columns)
    choice = choice_of(tmp_path, found, seed=0)
    assert choice is not None
    assert (choice.donor_shares, set(choice.test_ece)) == ({}, {"own", "pool"})


def choice(**changes: object) -> ModelChoice:
    told = {"chosen": "pool", "share": 0.6, "share_by": "evidence", "evidence_patients": 40, "validation_log_loss": {}}
    return ModelChoice.model_validate({**told, "test_auroc": {}, **changes})


def sentence(gain: Estimate, log_loss: Estimate | None = None, **changes: object) -> tuple[str, str]:
    results = {name: MethodResult(auroc=estimate(0.8, 0.7, 0.9), metrics={}) for name in ("alone", "cdtl")}
    headline = headline_of(
        "north", "mri", main="cdtl", results=results, gain={"cdtl-alone": gain}, test_patients=60,
        log_loss_change={"cdtl-alone": log_loss} if log_loss else {}, selection=choice(**changes),
    )  # fmt: skip
    return headline.sentence, " ".join(headline.more)


def test_a_gain_is_told_in_pairs_of_images() -> None:
    told, _ = sentence(estimate(0.063, 0.037, 0.091))
    assert told == (
        "Gain: of 100 pairs of a positive and a negative test image, CDTL ranks 6.3 more in the right order than "
        "local training (95 % interval +3.7 to +9.1, 60 test patients)."
    )
    assert sentence(estimate(-0.05, -0.09, -0.01))[0].startswith("Loss: of 100 pairs")
    assert "5.0 fewer" in sentence(estimate(-0.05, -0.09, -0.01))[0]
    assert "it contains 0" in sentence(estimate(0.01, -0.09, 0.1))[0]
    assert "anecdote" in sentence(estimate(0.2))[0]
    assert "predicted worse" in sentence(estimate(0.2, 0.1, 0.3), chosen="own")[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (estimate(-0.2, -0.3, -0.1), "its probabilities are better"),
        (estimate(0.2, 0.1, 0.3), "its probabilities are worse"),
        (estimate(0.0, -0.1, 0.1), "no clear difference"),
        (estimate(-0.2), "too few test patients"),
    ],
)
def test_log_loss_is_told_in_words(change: Estimate, words: str) -> None:
    assert words in sentence(estimate(0.01, -0.01, 0.02), change)[1]


def test_shares_of_donors_are_told_at_the_site_and_as_a_matrix() -> None:
    shares = {"mri": estimate(0.1, 0.0, 0.4), "ultrasound": estimate(0.6, 0.3, 0.9)}
    assert donors_sentence(shares) == "ultrasound sites: 0.6 (0.3 to 0.9); mri sites: 0.1 (0.0 to 0.4)"
    assert "ultrasound sites: 0.6 (0.3 to 0.9)" in sentence(estimate(0.0, -0.1, 0.1), donor_shares=shares)[1]
    forest = donor_forest("south", shares)
    assert forest is not None
    assert [row.label for row in forest.rows] == ["mri sites", "ultrasound sites"]
    heat = donor_heat({"south": shares, "north": {"mri": estimate(0.2, 0.1, 0.3)}, "east": {}})
    assert heat is not None
    assert (heat.rows, heat.columns) == (["south", "north"], ["mri", "ultrasound"])
    assert heat.texts == [["0.10 (0.00 to 0.40)", "0.60 (0.30 to 0.90)"], ["0.20 (0.10 to 0.30)", "–"]]
    assert donor_heat({"east": {}}) is None
    assert donor_forest("east", {}) is None


def test_why_a_site_has_no_shares_is_said() -> None:
    assert "whole networks" in why_no_shares(RunConfig())
    heads = {"model": {"levels": [6, 7]}, "train": {"freeze": 7, "views": 2}}
    assert "20 training patients" in why_no_shares(RunConfig.model_validate(heads))
    assert "equal shares" in why_no_shares(RunConfig.model_validate({**heads, "pool": {"share": "equal"}}))


def test_equal_rows_of_the_rounds_are_a_sentence_and_others_are_none() -> None:
    assert "mri 0.25, ultrasound 0.75" in shares_sentence(["mri", "ultrasound"], [[0.25, 0.75]] * 2)
    assert not shares_sentence(["mri", "ultrasound"], [[0.25, 0.75], [0.5, 0.5]])
    assert not shares_sentence([], [])


def test_the_model_used_is_said_with_what_set_the_share() -> None:
    assert "own : joint = 1 : 0.60, set by 40 patients" in selection_sentence(choice())
    assert "equal, since" in selection_sentence(choice(share_by="equal", evidence_patients=0))


def test_what_the_own_model_costs_is_what_the_rehearsal_noted(tmp_path: Path) -> None:
    (tmp_path / "rounds").mkdir()
    lines = [{"round": n, "seconds": 5.0 + n, "own_seconds": 2.0 + n} for n in (1, 2)]
    (tmp_path / "rounds" / "rehearsal-cdtl.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name, size in (
        ("memory/r/round-0002", 10),
        ("memory/r/own-0002", 20),
        ("models/r/own", 30),
        ("models/r/model", 40),
    ):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    assert _of_own_model(tmp_path) == {
        "site_seconds_per_round": 7.0, "own_seconds_per_round": 4.0, "disk_bytes": 100, "own_disk_bytes": 50
    }  # fmt: skip
