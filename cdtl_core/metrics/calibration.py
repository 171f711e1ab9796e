"""Temperature scaling: one number, fitted on validation patients, that calibrates probabilities."""

import numpy as np
import numpy.typing as npt

__all__ = ["fit_temperature", "rescale"]

Floats = npt.NDArray[np.float64]
_FEWEST_PATIENTS = 20


def fit_temperature(
    log_probabilities: Floats,
    labels: npt.NDArray[np.int64],
    patients: npt.NDArray[np.int64],
    *,
    deviation: float | None = None,
) -> float | None:
    """Return the temperature in [0.2, 10] with the lowest log-loss; None with fewer than 20 patients.

    Args:
        log_probabilities: N K.
        labels: Class index, N.
        patients: Number of each image's patient, N.
        deviation: Standard deviation of a normal prior of the temperature's logarithm around 0, for scores whose scale
            was already fitted on other patients; None: no prior.

    Source: Guo et al. 2017, section 4.2.
    """
    count = len(np.unique(patients))
    if count < _FEWEST_PATIENTS:
        return None
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = rescale(log_probabilities, float(np.exp(log_temperature)))
        prior = 0.0 if deviation is None else (log_temperature / deviation) ** 2 / (2 * count)
        return float(-scaled[np.arange(len(labels)), labels].mean()) + prior

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.2), np.log(10)), method="bounded").x))


def rescale(log_probabilities: Floats, temperature: float) -> Floats:
    """Return log-probabilities N K at another temperature."""
    from scipy.special import log_softmax

    return np.asarray(log_softmax(log_probabilities / temperature, axis=1), np.float64)
