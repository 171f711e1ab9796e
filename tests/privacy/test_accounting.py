"""Accounting: against Opacus called directly, the Gaussian mechanism's formula, and as properties."""

# mypy: disable-error-code=arg-type

import math
import subprocess
import sys
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from scipy.optimize import brentq
from scipy.stats import norm

from cdtl_core.errors import PrivacyError
from cdtl_core.privacy import accounting
from cdtl_core.privacy.accounting import Steps, affordable_steps, epsilon, epsilon_prv, merged, plan_noise

DELTA = 1e-4
noises = st.sampled_from((0.6, 1.0, 1.7, 3.0, 8.0))
rates = st.sampled_from((0.001, 0.01, 0.16, 0.5, 1.0))
history = st.lists(st.builds(Steps, noises, rates, st.integers(0, 40)), max_size=4)
some_steps = st.builds(Steps, noises, rates, st.integers(1, 40))


def opacus(accountant: RDPAccountant | PRVAccountant, steps: list[Steps], delta: float) -> float:
    for one in steps:
        for _ in range(one.steps):
            accountant.step(noise_multiplier=one.noise_multiplier, sample_rate=one.sample_rate)
    return float(accountant.get_epsilon(delta=delta))


def gaussian_epsilon(noise: float, steps: int, delta: float) -> float:
    """Exact epsilon of `steps` Gaussian mechanisms without sampling; Balle and Wang 2018, theorem 8."""
    mu = math.sqrt(steps) / noise

    def excess(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)) - delta

    return float(brentq(excess, 0, 200))


def test_twenty_rounds_cost_what_opacus_says_of_all_their_steps_and_not_of_one_round() -> None:
    rounds = [Steps(1.0, 0.16, 12)] * 20
    assert epsilon(rounds, DELTA) == pytest.approx(opacus(RDPAccountant(), rounds, DELTA), abs=1e-6)
    assert epsilon(rounds, DELTA) == pytest.approx(18.16, abs=0.01)
    assert epsilon(rounds[:1], DELTA) == pytest.approx(4.31, abs=0.01)  # a fresh accountant says so in every round


def test_steps_of_several_kinds_cost_what_opacus_says() -> None:
    steps = [Steps(1.0, 0.16, 12), Steps(2.0, 0.5, 7), Steps(1.0, 0.16, 5), Steps(4.0, 1.0, 9)]
    assert epsilon(steps, DELTA) == pytest.approx(opacus(RDPAccountant(), steps, DELTA), abs=1e-6)


@pytest.mark.filterwarnings("ignore:Optimal order is the")
@given(history, st.sampled_from((1e-8, 1e-5, 1e-3, 0.2)))
def test_the_few_orders_that_are_tried_give_the_bits_of_all(steps: list[Steps], delta: float) -> None:
    whole = RDPAccountant()
    whole.history = [(one.noise_multiplier, one.sample_rate, one.steps) for one in merged(steps)]
    assert epsilon(steps, delta) == whole.get_epsilon(delta)


@pytest.mark.parametrize("one", [Steps(1.0, 0.16, 24), Steps(30.0, 0.5, 60), Steps(0.4, 0.16, 100)])
def test_few_orders_are_tried(one: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    cost = accounting._renyi
    monkeypatch.setattr(accounting, "_renyi", lambda *which: tried.append(which) or cost(*which))
    epsilon([one], DELTA)
    assert len(set(tried)) == len(tried) < 40


def test_prv_is_opacus_called_directly() -> None:
    steps = [Steps(1.0, 0.16, 24), Steps(2.0, 0.3, 10)]
    assert epsilon_prv(steps, DELTA) == pytest.approx(opacus(PRVAccountant(), steps, DELTA), abs=1e-6)
    assert 0.8 * epsilon(steps, DELTA) < epsilon_prv(steps, DELTA) < epsilon(steps, DELTA)


@pytest.mark.parametrize(("noise", "steps"), [(4.5, 60), (30.0, 60), (1.0, 1)])
def test_the_whole_cohort_in_each_batch_costs_what_the_exact_formula_says(noise: float, steps: int) -> None:
    """Sample rate 1 is the default of dp.batch_patients, and an edge at which Opacus divides by zero."""
    exact, whole = gaussian_epsilon(noise, steps, 1e-5), [Steps(noise, 1.0, steps)]
    assert exact <= epsilon_prv(whole, 1e-5) <= exact + 0.02
    assert exact <= epsilon(whole, 1e-5) <= 1.2 * exact


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], DELTA) == epsilon_prv([], DELTA) == epsilon([Steps(1.0, 0.16, 0)], DELTA) == 0
    assert epsilon([Steps(0.0, 0.16, 1)], DELTA) == epsilon_prv([Steps(0.0, 0.16, 1)], DELTA) == math.inf


def test_a_hopeless_history_is_answered_at_once() -> None:
    """PRV's grid for it would not fit into memory."""
    begin, hopeless = time.monotonic(), [Steps(0.01, 0.9, 5000)]
    assert epsilon_prv(hopeless, DELTA) == epsilon(hopeless, DELTA) > 1e6
    assert time.monotonic() - begin < 5


def test_two_runs_that_take_turns_for_long_are_counted_fast() -> None:
    turns = [Steps(1.0, 0.16, 5), Steps(1.1, 0.2, 5)] * 200
    begin = time.monotonic()
    affordable_steps(turns, Steps(1.0, 0.16, 12), target_epsilon=500, target_delta=DELTA)
    assert time.monotonic() - begin < 10
    assert merged(turns) == (Steps(1.0, 0.16, 1000), Steps(1.1, 0.2, 1000))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(("target", "rate", "steps"), [(8.0, 0.16, 96), (3.0, 0.5, 60), (1.0, 1.0, 60)])
def test_planned_noise_is_that_of_opacus(target: float, rate: float, steps: int) -> None:
    terms = {"target_epsilon": target, "target_delta": 1e-5, "sample_rate": rate, "steps": steps}
    noise = plan_noise([], **terms)
    assert noise == pytest.approx(get_noise_multiplier(**terms, epsilon_tolerance=1e-3), rel=2e-3)
    assert target * 0.998 < epsilon([Steps(noise, rate, steps)], 1e-5) <= target


@settings(max_examples=settings().max_examples // 8)  # each takes a second
@given(history, st.sampled_from((0.5, 3.0, 8.0, 30.0)), st.sampled_from((0.16, 1.0)), st.integers(0, 60))
def test_a_plan_after_any_history_stays_within_the_total(
    before: list[Steps], target: float, rate: float, steps: int
) -> None:
    try:
        noise = plan_noise(before, target_epsilon=target, target_delta=DELTA, sample_rate=rate, steps=steps)
    except PrivacyError:
        assert epsilon([*before, Steps(1e6, rate, max(1, steps))], DELTA) > target
        return
    planned = Steps(noise, rate, steps)
    assert epsilon([*before, planned], DELTA) <= target
    assert noise > 0
    assert affordable_steps(before, planned, target_epsilon=target, target_delta=DELTA) == steps


def test_a_target_without_room_is_refused_in_one_sentence() -> None:
    terms = {"target_delta": 1e-5, "sample_rate": 0.16, "steps": 96}
    with pytest.raises(PrivacyError, match=r"^epsilon 0\.05 at delta 1e-05 leaves no room for 96 steps: raise"):
        plan_noise([], target_epsilon=0.05, **terms)
    with pytest.raises(PrivacyError, match="96 steps in addition to what this site has spent: raise the target"):
        plan_noise([Steps(1.0, 0.16, 240)], target_epsilon=8, **terms)


@given(history, some_steps)
def test_epsilon_grows_with_steps_and_falls_with_noise(before: list[Steps], more: Steps) -> None:
    spent = epsilon([*before, more], DELTA)
    noisier = Steps(more.noise_multiplier * 1.5, more.sample_rate, more.steps)
    longer = Steps(more.noise_multiplier, more.sample_rate, more.steps + 1)
    assert epsilon(before, DELTA) <= spent <= epsilon([*before, longer], DELTA)
    assert epsilon([*before, noisier], DELTA) <= spent


@given(history, st.randoms())
def test_the_order_of_steps_and_how_they_are_cut_change_nothing(before: list[Steps], random: Random) -> None:
    singles = [Steps(one.noise_multiplier, one.sample_rate, 1) for one in before for _ in range(one.steps)]
    random.shuffle(singles)
    assert epsilon(singles, DELTA) == pytest.approx(epsilon(before, DELTA), abs=1e-9)


@given(history, some_steps, st.sampled_from((1.0, 8.0, 30.0)))
def test_affordable_steps_are_all_that_fit_and_not_one_more(before: list[Steps], wanted: Steps, target: float) -> None:
    count = affordable_steps(before, wanted, target_epsilon=target, target_delta=DELTA)
    assert 0 <= count <= wanted.steps
    if count:
        assert _after(before, wanted, count) <= target * (1 + 1e-9)
    if count < wanted.steps:
        assert _after(before, wanted, count + 1) > target


def _after(before: list[Steps], wanted: Steps, count: int) -> float:
    return epsilon([*before, Steps(wanted.noise_multiplier, wanted.sample_rate, count)], DELTA)


@pytest.mark.slow
@pytest.mark.ci
def test_without_torch_the_figures_are_opacus_own_to_the_last_bit() -> None:
    """A process that only reads a ledger loads Opacus's accountants alone, and may load Opacus itself later."""
    code = (
        "import sys\n"
        "from cdtl_core.privacy.accounting import Steps, epsilon, epsilon_prv\n"
        "steps = [Steps(1.0, 0.16, 24), Steps(2.0, 0.3, 10)]\n"
        f"print(epsilon(steps, {DELTA}), epsilon_prv(steps, {DELTA}))\n"
        "print('torch' in sys.modules, [name for name in sys.modules if name.startswith('opacus')])\n"
        "from opacus.accountants import PRVAccountant\nfrom opacus.optimizers import DPOptimizer\n"
        f"print(DPOptimizer.__module__, epsilon_prv(steps, {DELTA}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    steps = [Steps(1.0, 0.16, 24), Steps(2.0, 0.3, 10)]
    prv = opacus(PRVAccountant(), steps, DELTA)
    said = [f"{epsilon(steps, DELTA)} {prv}", "False []", f"opacus.optimizers.optimizer {prv}"]
    assert done.stdout.splitlines() == said


@pytest.mark.slow
@pytest.mark.ci
def test_where_the_accountants_need_more_of_opacus_all_of_it_is_loaded() -> None:
    code = (
        "import sys, types\n"
        "import cdtl_core.privacy.accountants as alone, cdtl_core.privacy.accounting as room\n"
        "alone.stand_in = lambda name, **_: types.ModuleType(name)\n"  # too little, as of another version
        f"print(room.epsilon([room.Steps(1.0, 0.16, 24)], {DELTA}), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(epsilon([Steps(1.0, 0.16, 24)], DELTA)), "True"]
