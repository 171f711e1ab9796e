"""What a model of this kind is not known to do, in sentences; the facts of a run choose among them."""

from cdtl_core.results.report import Estimate

__all__ = ["INTENDED_USE", "OUT_OF_SCOPE", "known_limits"]

INTENDED_USE = (
    "For research on federated training across imaging modalities: to score images of the kind that this site "
    "trained on, and to compare methods."
)
OUT_OF_SCOPE = (
    "decisions about patients, screening, triage, or any clinical use; images of another modality, organ, device or "
    "population; images that no person has checked."
)


def known_limits(
    *, synthetic: bool, test_patients: int, has_interval: bool, calibrated: bool, private: bool, gain: Estimate | None
) -> tuple[str, ...]:
    """The limits of one model."""
    limits = [
        "Tested on patients of the same site alone; nothing is known of other sites, devices or years.",
        "One run with one seed: intervals cover the choice of test patients, not that of the seed (cdtl compare does).",
        "Which model is used was chosen on held-out patients of this site; few of them can show little.",
    ]
    if synthetic:
        limits.insert(0, "Trained and tested on synthetic images: its figures say nothing about patients.")
    if not has_interval:
        limits.append(f"Only {test_patients} test patients: too few for an interval, its figures are anecdotes.")
    elif test_patients < 100:
        limits.append(f"{test_patients} test patients: the intervals are wide.")
    if not calibrated:
        limits.append("Its probabilities are not calibrated.")
    if not private:
        limits.append("Trained without differential privacy: it can give away something of training patients.")
    if gain is not None and (gain.low is None or gain.low <= 0):
        limits.append("No evidence that it is better than the model this site trained alone.")
    return tuple(limits)
