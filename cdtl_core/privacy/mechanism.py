"""Parameters of private steps as plain values, usable without Opacus."""

from dataclasses import dataclass

from cdtl_core.config import DpConfig
from cdtl_core.errors import PrivacyError

__all__ = ["Grant", "Mechanism", "check_terms", "without_noise"]

_FEWEST = 10


@dataclass(frozen=True)
class Mechanism:
    """Parameters of one step.

    Attributes:
        noise_multiplier: Standard deviation of the noise on the summed gradient, divided by `max_grad_norm`; sigma.
        sample_rate: Probability of each patient to be in a step; q.
        max_grad_norm: Longest gradient of a patient; C.
        num_patients: The published number, a constant; q times this divides the summed gradient.
    """

    noise_multiplier: float
    sample_rate: float
    max_grad_norm: float
    num_patients: int

    @property
    def expected(self) -> float:
        """Expected number of patients in a step, from public numbers."""
        return self.sample_rate * self.num_patients


def without_noise(num_patients: int) -> Mechanism:
    """Return a mechanism without noise and clip, with every patient in every step."""
    return Mechanism(0.0, 1.0, float("inf"), num_patients)


@dataclass(frozen=True)
class Grant:
    """What a site may do in a round.

    Attributes:
        mechanism: Parameters of each step.
        steps: Number of steps; the first `dp.centre_steps` compute the centre of the features, if it has not been
            computed yet.
        private: Whether a ledger granted it; else the site is exempt from privacy and its mechanism has no noise.
    """

    mechanism: Mechanism
    steps: int
    private: bool = True


def check_terms(config: DpConfig, num_patients: int) -> None:
    """Refuse terms that give no protection for this number of training patients.

    Raises:
        PrivacyError: delta is not below 1 / patients, or there are too few patients to publish a rounded number.
    """
    if num_patients < _FEWEST:
        raise PrivacyError(
            f"{num_patients} training patients are too few for differential privacy, which needs {_FEWEST}: take part "
            "without (privacy.exempt in site.toml), or not at all."
        )
    if config.target_delta * num_patients >= 1:
        raise PrivacyError(
            f"dp.target_delta {config.target_delta:g} is not below 1 / {num_patients} training patients, so a whole "
            "patient could be disclosed: lower it, 1e-5 is usual."
        )
