"""The privacy cost of a run before training: the noise, compared with the signal."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cdtl_core.config import RunConfig
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.privacy.accounting import Steps, epsilon, epsilon_prv, plan_noise
from cdtl_core.privacy.mechanism import check_terms

__all__ = ["ADAPTER", "MARGINAL", "WORKABLE", "Judgement", "Outlook", "Part", "num_trainable", "outlook"]

Judgement = Literal["workable", "marginal", "hopeless"]

ADAPTER = 16
WORKABLE, MARGINAL = 0.2, 1.0
"""Limits of noise over the longest signal, averaged over all steps, for a workable and a marginal part.

The average hardly depends on how a budget is divided into steps. Above 1 the noise is longer than any possible signal.
Rules of thumb (200 patients, epsilon 8, 60 steps of the whole cohort, ratios of one step): 0.7 is workable, 3 to 5
marginal, 73 hopeless. Averaged these are 0.09, 0.39 to 0.65, and 9.4; 0.2 is half-way between the first two.
"""


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Value):
    """A part of the network that could be trained.

    Attributes:
        name: For display.
        parameters: d.
        noise_to_signal: Length of a step's noise, sigma C sqrt(d) / B, over the longest signal, C.
        averaged: The same for the mean over all steps.
        judgement: From `averaged`.
    """

    name: str
    parameters: int
    noise_to_signal: float
    averaged: float
    judgement: Judgement


class Outlook(_Value):
    """A run's privacy at one site; `centre_steps` compute the centre of the features in its first round."""

    patients: int
    target_epsilon: float
    target_delta: float
    max_grad_norm: float
    noise_multiplier: float
    sample_rate: float
    expected_patients: float
    rounds: int
    steps_a_round: int
    centre_steps: int
    steps: int
    epsilon_rdp: float
    epsilon_prv: float
    chosen: Part
    alternatives: tuple[Part, ...]


def outlook(config: RunConfig, patients: int) -> Outlook:
    """Plan a run's noise for a site that has spent nothing yet.

    Args:
        config: The run's settings; `dp.enabled` is taken as true.
        patients: Number of training patients of the site.

    Raises:
        ConfigError: There are no steps, or a step takes more patients than there are.
        PrivacyError: The terms give no protection for so few patients, or epsilon leaves no room.
    """
    _check(config, patients)
    dp, rounds, each = config.dp, config.federation.rounds, config.train.steps
    centre = dp.centre_steps if config.model.levels else 0
    rate, steps = (dp.batch_patients or patients) / patients, rounds * each + centre
    noise = plan_noise(
        [], target_epsilon=dp.target_epsilon, target_delta=dp.target_delta, sample_rate=rate, steps=steps
    )
    spent, step = [Steps(noise, rate, steps)], noise / (rate * patients)
    return Outlook(
        patients=patients,
        target_epsilon=dp.target_epsilon,
        target_delta=dp.target_delta,
        max_grad_norm=dp.max_grad_norm,
        noise_multiplier=noise,
        sample_rate=rate,
        expected_patients=rate * patients,
        rounds=rounds,
        steps_a_round=each,
        centre_steps=centre,
        steps=steps,
        epsilon_rdp=epsilon(spent, dp.target_delta),
        epsilon_prv=epsilon_prv(spent, dp.target_delta),
        chosen=_part(_name(config), config, step, steps),
        alternatives=tuple(_part(name, other, step, steps) for name, other in _alternatives(config).items()),
    )


def num_trainable(config: RunConfig) -> int:
    """Return how many numbers a private run trains: all that leave a site that shares its head."""
    from cdtl_core.models.model import frozen_stages, parts_of, shared_classifier  # torch: not for what is spent

    model = shared_classifier(config.model, len(config.task.labels), config.image.size)
    private = config.model_copy(update={"dp": config.dp.model_copy(update={"enabled": True})})
    parts, state = parts_of(model, freeze=frozen_stages(model, private), share_head=True), model.state_dict()
    return sum(state[name].numel() for name in parts.shared)


def _check(config: RunConfig, patients: int) -> None:
    if patients < 2:
        raise PrivacyError(
            f"there are {patients} training patients, too few for privacy: give at least 2, better hundreds."
        )
    check_terms(config.dp, patients)
    if config.dp.batch_patients > patients:
        raise ConfigError(
            f"a step takes {config.dp.batch_patients} patients (dp.batch_patients), but there are {patients}: "
            "lower it, or set it to 0 for all patients."
        )
    if not config.train.steps:
        raise ConfigError("train.steps is 0, so nothing is trained: set it to 1 or more.")


def _part(name: str, config: RunConfig, noise: float, steps: int) -> Part:
    count = num_trainable(config)
    ratio = noise * math.sqrt(count)
    averaged = ratio / math.sqrt(steps)
    return Part(
        name=name, parameters=count, noise_to_signal=ratio, averaged=averaged, judgement=_judgement(averaged)
    )  # fmt: skip


def _judgement(averaged: float) -> Judgement:
    if averaged <= WORKABLE:
        return "workable"
    return "marginal" if averaged <= MARGINAL else "hopeless"


def _name(config: RunConfig) -> str:
    adapter, stages = config.model.adapter, config.dp.stages
    parts = [f"adapter of {adapter}"] * bool(adapter) + [f"last {stages} stages"] * (stages > 1)
    return " + ".join(["head", *parts, *["last stage"] * (stages == 1)])


def _alternatives(config: RunConfig) -> dict[str, RunConfig]:
    from cdtl_core.models.model import shared_classifier
    from cdtl_core.models.stages import stages_of

    model = shared_classifier(config.model, len(config.task.labels), config.image.size)
    whole = max(config.model.levels) if config.model.levels else len(stages_of(model.backbone))
    return {
        "head": _with(config, adapter=0, stages=0),
        f"head + adapter of {ADAPTER}": _with(config, adapter=ADAPTER, stages=0),
        "head + last stage": _with(config, adapter=0, stages=1),
        "head + whole backbone": _with(config, adapter=0, stages=whole),
    }


def _with(config: RunConfig, *, adapter: int, stages: int) -> RunConfig:
    model, dp = config.model.model_copy(update={"adapter": adapter}), config.dp.model_copy(update={"stages": stages})
    return config.model_copy(update={"model": model, "dp": dp})
