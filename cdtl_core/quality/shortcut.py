"""Tests whether size, border and histogram predict the label: a model could then learn the scanner."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.duplicates import group_duplicates
from cdtl_core.quality.rule import Hit, Rule
from cdtl_core.quality.sample import Sample

__all__ = ["RULES", "ShortcutScore", "score_shortcuts"]

LOW = 0.6  # limit for the lower end of the interval
FOLDS = 5
LEAST_GROUPS = 20  # of a class, and of all others together
RESAMPLES = 300
PENALTY = 0.1  # scikit-learn's C
MOST_IMAGES = 20_000
Numbers = npt.NDArray[np.float64]
Whole = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ShortcutScore:
    """AUROC, with its 95 % interval, of one class against the others from size, border and histogram only."""

    label: str
    auroc: float
    low: float
    high: float


def score_shortcuts(cohort: Cohort) -> tuple[ShortcutScore, ...]:
    """Cross-validated AUROC of a logistic model on size, border and histogram, for each class against the others.

    Folds keep patients and groups of duplicates together; the interval resamples these groups. A class with fewer
    than 20 groups, or whose others have fewer, is left out; of two classes the rarer one stands for both.
    """
    step = -(-len(cohort.samples) // MOST_IMAGES) or 1
    samples, groups = cohort.samples[::step], _groups(cohort)[::step]
    if not samples:
        return ()
    features = np.array([_features(sample) for sample in samples])
    labels = np.array([sample.entry.label for sample in samples])
    found = []
    for label in _asked(labels.tolist()):
        positive = labels == label
        if min(len(set(groups[positive])), len(set(groups[~positive]))) >= LEAST_GROUPS:
            scores = _predict(features, positive, groups)
            found.append(ShortcutScore(label, _auroc(scores, positive), *_interval(scores, positive, groups)))
    return tuple(found)


def _asked(labels: list[str]) -> list[str]:
    """Rarest class first; of two classes only one, since the other is its mirror image."""
    ranked = [label for label, _ in reversed(Counter(labels).most_common())]
    return ranked[:1] if len(ranked) == 2 else ranked


def _groups(cohort: Cohort) -> Whole:
    """Group by patient; patients that share duplicates are merged."""
    duplicates = group_duplicates(len(cohort.samples), cohort.pairs)
    patient: dict[str, int] = {}
    merged: dict[int, int] = {}

    def root(node: int) -> int:
        while merged.setdefault(node, node) != node:
            node = merged[node]
        return node

    for sample, group in zip(cohort.samples, duplicates, strict=True):
        seat = patient.setdefault(sample.owner, -1 - len(patient))
        merged[root(seat)] = root(int(group))
    roots = [root(int(group)) for group in duplicates]
    return np.unique(roots, return_inverse=True)[1].astype(np.intp)


def _features(sample: Sample) -> list[float]:
    facts = sample.facts
    size = [float(np.log(facts.width)), float(np.log(facts.height)), float(facts.bits)]
    return [*size, *(edge / 255 for edge in facts.edges), *np.sqrt(facts.histogram).tolist()]


def _predict(features: Numbers, positive: npt.NDArray[np.bool_], groups: Whole) -> Numbers:
    """Return each image's rank within its own test fold, which makes folds comparable."""
    from scipy.stats import rankdata  # these take a second: only for cohorts that are large enough
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.preprocessing import StandardScaler

    scores = np.zeros(len(features))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for known, asked in folds.split(features, positive, groups):
        scale = StandardScaler().fit(features[known])
        model = LogisticRegression(C=PENALTY, max_iter=1000, class_weight="balanced")
        model.fit(scale.transform(features[known]), positive[known])
        scores[asked] = rankdata(model.decision_function(scale.transform(features[asked]))) / len(asked)
    return scores


def _auroc(scores: Numbers, positive: npt.NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def _interval(scores: Numbers, positive: npt.NDArray[np.bool_], groups: Whole) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    values = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        values.append(_auroc(scores[drawn], positive[drawn]))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _shortcut(cohort: Cohort) -> Iterator[Hit]:
    for score in score_shortcuts(cohort):
        if score.low > LOW:
            yield Hit(
                f"a model that sees only size, border and histogram separates '{score.label}' from the rest with AUROC "
                f"{score.auroc:.2f} ({score.low:.2f} to {score.high:.2f})."
            )


RULES = (
    Rule(
        "shortcut",
        "warning",
        "A logistic model that sees only size, bit depth, border and histogram tells a class from the others, in "
        "cross-validation grouped by patient, with an AUROC whose 95 % interval lies above 0.6 (from 20 patients on).",
        "See whether a class comes from one scanner, export or crop; a part may be real (shadows are dark): compare "
        "the model's AUROC with this one, not with 0.5.",
        _shortcut,
    ),
)
