"""How the prior of a pool's scale was found: what few held-out patients cost with it, on margins whose truth is known.

    OMP_NUM_THREADS=1 python -m simulations.studies.pool_scale

Margins are normal, 40 % of the patients positive, at the spread of a pool of two equal parts. Each cohort of n patients
fits scale and bias under each prior, as `cdtl_core.federation.pool` does; 20,000 other patients say how much log-loss
that costs over the best scale and bias. Printed: mean, and the worst of 20 cohorts. All priors see the same cohorts.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import norm

Floats = npt.NDArray[np.float64]
COHORTS, OTHERS, POSITIVE, SEED = 200, 20_000, 0.4, 0
PRIORS: dict[str, Callable[[int], tuple[float, float]]] = {
    "before": lambda _: (0.0, 2.0),
    "narrower": lambda n: (0.0, 2 * n / 20),
    "narrower and lower": lambda n: ((1 - n / 20) * float(np.log(0.5)), 2 * n / 20),
}
"""Number of patients to mean and deviation of the log scale's normal prior."""


def patients_of(count: int, distance: float, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return margins N and labels N of both classes, `distance` standard deviations apart."""
    while True:
        positive = rng.random(count) < POSITIVE
        if 0 < positive.sum() < count:
            margin = distance * (positive - POSITIVE) + rng.standard_normal(count)
            return 2 * margin / np.sqrt(1 + POSITIVE * (1 - POSITIVE) * distance**2), positive


def log_loss(values: Floats, margin: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Return the mean log-loss at a log scale and a bias."""
    logits = values[1] + np.exp(values[0]) * margin
    return float(np.logaddexp(0, np.where(positive, -logits, logits)).mean())


def fitted(margin: Floats, positive: npt.NDArray[np.bool_], mean: float, deviation: float) -> Floats:
    """Return log scale and bias with the lowest penalised log-loss; the bias has a prior of deviation 2."""

    def penalised(values: Floats) -> float:
        prior = ((values[0] - mean) / deviation) ** 2 / 2 + values[1] ** 2 / 8
        return float(len(margin) * log_loss(values, margin, positive) + prior)

    bounds = [(-3, 3), (None, None)]
    return np.asarray(minimize(penalised, [mean, 0.0], bounds=bounds, method="L-BFGS-B").x, np.float64)


def main() -> None:
    """Print the table."""
    heads = [f"{count} patients: {prior}" for count in (5, 10, 15) for prior in PRIORS]
    print(f"| AUROC of the pool | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for auroc in (0.5, 0.6, 0.75, 0.9, 0.97):
        rng, distance = np.random.default_rng(SEED), float(np.sqrt(2) * norm.ppf(auroc))
        others = patients_of(OTHERS, distance, rng)
        best = minimize(log_loss, [0.0, 0.0], args=others, method="L-BFGS-B").fun
        row = []
        for count in (5, 10, 15):
            cohorts = [patients_of(count, distance, rng) for _ in range(COHORTS)]
            for prior in PRIORS.values():
                costs = [log_loss(fitted(*cohort, *prior(count)), *others) - best for cohort in cohorts]
                row.append(f"{np.mean(costs):.2f}, {np.quantile(costs, 0.95):.2f}")
        print(f"| {auroc:.2f} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
