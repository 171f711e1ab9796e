"""Common figures of a binary classifier: rates at threshold 0.5, log-loss, calibration error."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.errors import ConfigError
from cdtl_core.metrics.bands import average_precision
from cdtl_core.system.plugins import adopt, adopt_all, explaining, guarded, plugins

__all__ = [
    "Metric",
    "expected_calibration_error",
    "known_metrics",
    "log_losses",
    "metric_names",
    "register_metric",
    "registered_metrics",
    "summarise",
]

Floats = npt.NDArray[np.float64]
Metric = Callable[[npt.NDArray[np.bool_], Floats], float]
"""Truth N and probability of the positive class N, of a site's test images, to one figure; NaN where it has none."""

_REGISTERED: dict[str, Metric] = {}
_ELSEWHERE = ("auroc", "sensitivity_at_90_specificity")  # figures of this name that others compute


def register_metric(name: str, metric: Metric) -> None:
    """Add a figure to the metrics of every report and comparison that this process makes.

    For the command line and for runs between hospitals, put it into a package (docs/guides/package.md).

    Args:
        name: Its key in report.json and compare.json: lower case, digits and ``_``, at most 40 characters.
        metric: Takes whether each test image is positive, bool N, and its probability, float64 N; returns a float.
            NaN becomes null in the report.

    Raises:
        ConfigError: The name is taken or malformed, or `metric` is no function.

    Examples:
        >>> from cdtl_core import register_metric
        >>> register_metric("worst_positive", lambda positive, probability: float(probability[positive].min()))
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ConfigError(f"metric name {name!r}: use a-z, 0-9 and _, at most 40 characters, a letter first.")
    if name in metric_names():
        raise ConfigError(f"metric '{name}' exists already: choose another name.")
    if not callable(metric):
        raise ConfigError(f"metric '{name}' is {metric!r}: give a function of truth and probabilities.")
    _REGISTERED[name] = metric


def metric_names() -> tuple[str, ...]:
    """Names of all metrics of reports and comparisons."""
    return (*_ELSEWHERE, *_usual(np.array([True]), np.array([0.5])), *_REGISTERED)


def registered_metrics() -> tuple[str, ...]:
    """Names of the metrics of `register_metric` and of plugins."""
    load_metrics()
    return tuple(_REGISTERED)


def load_metrics() -> None:
    """Register the metrics of all plugins, so that a broken one is known before the work and not at its end.

    Raises:
        ConfigError: A plugin is broken, or two packages bring one name: a report has all metrics.
    """
    for one in plugins("metrics"):
        adopt("metrics", one.name, _register)


def known_metrics() -> tuple[str, ...]:
    """Names of all metrics, those of plugins too, but no broken one and no name that two packages bring."""
    adopt_all("metrics", _register)
    return metric_names()


def _register(name: str, metric: object) -> None:
    if not callable(metric):
        raise ConfigError("it is not a function of truth and probabilities.")
    register_metric(name, guarded("metrics", name, metric))


def summarise(positive: npt.NDArray[np.bool_], probability: Floats) -> dict[str, float]:
    """Return figures at threshold 0.5 and over all thresholds, and those of `register_metric`; 0/0 is NaN.

    Args:
        positive: Truth per image, N.
        probability: Of the positive class, N.

    Returns:
        Figure by name.

    Source: eqs. (11)-(15), Inbaraj et al. 2025.
    """
    load_metrics()
    added = {name: _value_of(name, positive, probability) for name in _REGISTERED}
    return {**_usual(positive, probability), **added}


def _value_of(name: str, positive: npt.NDArray[np.bool_], probability: Floats) -> float:
    """Return a registered metric.

    Args:
        name: Its name.
        positive: Truth, N.
        probability: Of the positive class, N.

    Raises:
        ConfigError: It fails; the training before it is kept.
    """
    remedy = "correct it, then give the command with --resume and the run's folder; what was trained is kept"
    with explaining(f"the metric '{name}' failed", remedy):
        return float(_REGISTERED[name](_read_only(positive), _read_only(probability)))


def _read_only(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view that a metric cannot write into: the other figures are computed from the same array."""
    view = values.view()
    view.flags.writeable = False
    return view


def _usual(positive: npt.NDArray[np.bool_], probability: Floats) -> dict[str, float]:
    said = probability >= 0.5
    hits, misses = np.sum(said & positive), np.sum(~said & positive)
    rejects, alarms = np.sum(~said & ~positive), np.sum(said & ~positive)
    sensitivity, specificity = _ratio(hits, hits + misses), _ratio(rejects, rejects + alarms)
    return {
        "auprc": average_precision(positive, probability),
        "accuracy": float(np.mean(said == positive)),
        "majority_rate": float(max(positive.mean(), 1 - positive.mean())),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "precision": _ratio(hits, hits + alarms),
        "f1": _ratio(2 * hits, 2 * hits + misses + alarms),
        "log_loss": float(log_losses(positive, probability).mean()),
        "brier": float(np.mean((probability - positive) ** 2)),
        "ece": expected_calibration_error(positive, probability),
    }


def log_losses(positive: npt.NDArray[np.bool_], probability: Floats) -> Floats:
    """Return the log-loss of each image, N; probabilities are rounded to nine digits, so none is exactly 0 or 1."""
    said = np.where(positive, probability, 1 - probability)
    return np.asarray(-np.log(np.clip(said, 1e-9, 1.0)), np.float64)


def expected_calibration_error(positive: npt.NDArray[np.bool_], probability: Floats, bins: int = 10) -> float:
    """Return the mean gap between probability and frequency over equally wide bins, weighted by their images.

    Args:
        positive: Truth per image, N.
        probability: Of the positive class, N.
        bins: Number of bins.

    Source: Guo et al. 2017, eq. (3). Differs: probability of the positive class, not of the predicted one.
    """
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(index, weights=probability - positive, minlength=bins)
    return float(np.abs(gap).sum() / len(positive))


def _ratio(part: np.generic, whole: np.generic) -> float:
    return float(part) / float(whole) if whole else float("nan")
