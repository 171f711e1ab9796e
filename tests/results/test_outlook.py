"""The outlook of a private run: hand numbers, and the parameters that are really trained."""

import math

import pytest
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from cdtl_core.config import RunConfig
from cdtl_core.models.model import build_classifier, frozen_stages, set_training
from cdtl_core.results.outlook import MARGINAL, WORKABLE, num_trainable, outlook

TINY = {"image": {"size": 32}, "model": {"backbone": "test_efficientnet", "weights": "random"}}


def config(*, model: dict[str, object] | None = None, **run: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate({**TINY, "model": {**TINY["model"], **(model or {})}, **run})


def test_numbers_by_hand() -> None:
    run = config(dp={"batch_patients": 40, "max_grad_norm": 0.3}, federation={"rounds": 5})
    found = outlook(run, 200)
    assert (found.steps, found.centre_steps, found.sample_rate, found.expected_patients) == (60, 0, 0.2, 40)
    terms = {"target_epsilon": 8.0, "target_delta": 1e-5, "sample_rate": 0.2, "steps": 60}
    assert found.noise_multiplier == pytest.approx(get_noise_multiplier(**terms, epsilon_tolerance=1e-3), rel=2e-3)
    accountant = RDPAccountant()
    accountant.history = [(found.noise_multiplier, 0.2, 60)]
    assert found.epsilon_rdp == pytest.approx(accountant.get_epsilon(delta=1e-5), abs=1e-6)
    assert found.epsilon_prv < found.epsilon_rdp <= 8
    d = num_trainable(run)
    assert found.chosen.parameters == d == 256 * 2 + 2
    assert found.chosen.noise_to_signal == pytest.approx(found.noise_multiplier * math.sqrt(d) / 40)
    assert found.chosen.averaged == pytest.approx(found.chosen.noise_to_signal / math.sqrt(60))


def test_the_clip_changes_nothing_of_the_ratio_and_the_whole_cohort_is_the_default() -> None:
    one, other = (outlook(config(dp={"max_grad_norm": clip}), 100) for clip in (0.1, 10.0))
    assert one.chosen == other.chosen
    assert one.sample_rate == 1


def test_averaged_noise_hardly_depends_on_how_the_budget_is_cut() -> None:
    ratios = [outlook(config(train={"steps": steps}), 200).chosen.averaged for steps in (1, 8, 100)]
    assert max(ratios) < 1.02 * min(ratios)


@pytest.mark.parametrize(
    ("model", "stages"), [({}, 0), ({"adapter": 16}, 0), ({}, 2), ({"levels": (2, 4), "adapter": 3}, 1)]
)
def test_the_parameters_counted_are_those_that_want_a_gradient(model: dict[str, object], stages: int) -> None:
    run = config(model=model, dp={"enabled": True, "stages": stages})
    built = build_classifier(run.model, 2, 32, frozen_norms=True)
    set_training(built, freeze=frozen_stages(built, run))
    trained = sum(value.numel() for value in built.parameters() if value.requires_grad)
    assert num_trainable(run) == trained > 0
    assert num_trainable(config(model=model, dp={"stages": stages})) == trained  # whether enabled or not


def test_the_centre_of_the_features_takes_steps_too() -> None:
    with_levels = outlook(config(model={"levels": (2, 4)}, dp={"centre_steps": 3}), 100)
    assert (with_levels.centre_steps, with_levels.steps) == (3, 8 * 12 + 3)


def test_the_alternatives_are_judged_by_the_bounds_of_the_design() -> None:
    """200 patients, epsilon 8, 60 steps: about 1 k parameters are workable, 20 to 50 k marginal, millions hopeless."""
    found = outlook(RunConfig.model_validate({"federation": {"rounds": 5}}), 200)
    assert [(part.name, part.parameters, part.judgement) for part in found.alternatives] == [
        ("head", 2562, "workable"),
        ("head + adapter of 16", 2562 + 2 * 16 * 1280, "marginal"),
        ("head + last stage", 2562 + 320 * 1280, "hopeless"),
        ("head + whole backbone", 3331554, "hopeless"),
    ]
    assert 0.7 / math.sqrt(60) < WORKABLE < 3 / math.sqrt(60) < 5 / math.sqrt(60) < MARGINAL < 73 / math.sqrt(60)
