"""A site's result in sentences: its gain over local training, the uncertainty, and the model it uses."""

from collections.abc import Mapping
from typing import Literal

from cdtl_core.report.charts.blend_figures import donors_sentence
from cdtl_core.report.charts.figure import Axis, Forest, Row, ticks_of
from cdtl_core.report.charts.styles import method_name, method_style
from cdtl_core.report.page import Headline
from cdtl_core.results.report import Estimate, MethodResult, ModelChoice
from cdtl_core.results.text import estimate_text, plain, signed

__all__ = ["SEED_NOTE", "gain_forest", "headline_of", "selection_sentence"]

SEED_NOTE = (
    "Intervals are 95 % percentile intervals of a paired bootstrap over test patients. They cover the choice of "
    "patients but not the seed: this is one run, and a claim of gain needs several (cdtl compare)."
)


def headline_of(
    site: str,
    about: str,
    *,
    main: str,
    results: Mapping[str, MethodResult],
    gain: Mapping[str, Estimate],
    log_loss_change: Mapping[str, Estimate],
    selection: ModelChoice | None,
    test_patients: int,
    unit: str = "image",
) -> Headline:
    """Return the sentences of a site whose run has ended.

    Args:
        site: The site's name.
        about: A line about the site.
        main: The main method.
        results: Results by method.
        gain: ``<method>-alone`` to the paired difference of AUROC.
        log_loss_change: ``<method>-alone`` to the paired difference of log-loss.
        selection: The choice of the model, if known.
        test_patients: Number of test patients.
        unit: What has a score.
    """
    name, difference = method_name(main), gain.get(f"{main}-alone")
    more = [
        *([selection_sentence(selection)] if selection else []),
        *_auroc_sentence(main, results, difference, test_patients),
        *_log_loss_sentence(log_loss_change.get(f"{main}-alone")),
        *_donors_sentence(selection),
    ]
    if difference is None or difference.value is None:
        told = estimate_text(results[main].auroc) if main in results else "unknown"
        why = "there is no local model to compare with"
        return Headline(site, about, "done", f"AUROC of {name} on {test_patients} test patients: {told}; {why}.", more)
    if selection is not None and selection.chosen == "own":
        used = "its validation patients were predicted worse by the pooled model, so the site uses its own model"
        return Headline(site, about, "none", f"No evidence of gain: {used}.", more)
    tone, sentence = _verdict(name, difference, test_patients, unit)
    return Headline(site, about, tone, sentence, more)


def _verdict(
    name: str, difference: Estimate, test_patients: int, unit: str
) -> tuple[Literal["gain", "none", "loss"], str]:
    """Say whether a method gains over local training, in pairs of units as AUROC counts them.

    Args:
        name: Name of the method.
        difference: Paired difference of AUROC.
        test_patients: Number of test patients.
        unit: What has a score.
    """
    value, low, high = difference.value or 0.0, difference.low, difference.high
    more = "more" if value >= 0 else "fewer"
    pairs = f"of 100 pairs of a positive and a negative test {unit}"
    amount = f"{pairs}, {name} ranks {abs(100 * value):.1f} {more} in the right order than local training"
    if low is None or high is None:
        few = f"only {test_patients} test patients allow no interval, so this figure is an anecdote"
        return "none", f"No evidence of gain: {amount}, but {few}."
    interval = f"95 % interval {signed(100 * low, 1)} to {signed(100 * high, 1)}, {test_patients} test patients"
    if low > 0:
        return "gain", f"Gain: {amount} ({interval})."
    if high < 0:
        return "loss", f"Loss: {amount} ({interval})."
    return "none", f"No evidence of gain: {amount} ({interval}; it contains 0)."


def _auroc_sentence(
    main: str, results: Mapping[str, MethodResult], gain: Estimate | None, test_patients: int
) -> list[str]:
    if main not in results or "alone" not in results or main == "alone":
        return []
    auroc, alone = estimate_text(results[main].auroc), estimate_text(results["alone"].auroc)
    less = f", difference {estimate_text(gain, sign=True)}" if gain is not None else ""
    return [f"AUROC on {test_patients} test patients: {method_name(main)} {auroc}, local {alone}{less}."]


def _log_loss_sentence(change: Estimate | None) -> list[str]:
    """Say whether probabilities got better or worse."""
    if change is None or change.value is None:
        return []
    text = f"Log-loss minus that of local training (below 0 is better): {estimate_text(change, sign=True)}"
    if change.low is None or change.high is None:
        return [f"{text}; too few test patients to say how sure that is."]
    if change.high < 0:
        return [f"{text}: its probabilities are better."]
    return [f"{text}: {'its probabilities are worse' if change.low > 0 else 'no clear difference'}."]


def _donors_sentence(selection: ModelChoice | None) -> list[str]:
    if selection is None or not selection.donor_shares:
        return []
    return [f"Share of the other sites, relative to the own model (1): {donors_sentence(selection.donor_shares)}."]


def selection_sentence(choice: ModelChoice) -> str:
    """Describe which model the site uses, and how its own and the joint model were pooled."""
    losses = ", ".join(f"{name} {plain(loss, 4)}" for name, loss in choice.validation_log_loss.items())
    told = f"validation log-loss: {losses}" if losses else "no validation patients"
    if choice.share is None:
        return f"Model used: {choice.chosen}, the only one of this run ({told})."
    count = "1 patient" if choice.evidence_patients == 1 else f"{choice.evidence_patients} patients"
    why = (
        f"set by {count} that the judged models were not trained on"
        if choice.share_by == "evidence"
        else "equal, since no patients of both classes could judge or the run asks for it"
    )
    shares = f"own : joint = 1 : {plain(choice.share, 2)}, {why}"
    if choice.chosen == "own":
        return f"Model used: the own one; the pool ({shares}) was worse on validation patients ({told})."
    return f"Model used: the pool of the site's own and the joint model ({shares}; {told}){_networks(choice)}."


def _networks(choice: ModelChoice) -> str:
    """Describe the networks of a prediction, if there are two or a choice was made."""
    if not choice.networks_log_loss:
        return ", as two networks side by side" if choice.networks == 2 else ""
    one, two = (plain(choice.networks_log_loss[name], 4) for name in ("one", "two"))
    if choice.networks == 2:
        return f", as two networks side by side (validation log-loss {two}; one between them: {one})"
    return f", as one network between the two (validation log-loss {one}; two networks: {two})"


def gain_forest(sites: Mapping[str, Mapping[str, Estimate]]) -> Forest | None:
    """Return all sites' differences to local training, one row per site and method; None if there are none."""
    rows = [
        Row(
            f"{site}, {method_name(key.removesuffix('-alone'))}",
            found.value,
            found.low,
            found.high,
            method_style(key.removesuffix("-alone")),
            estimate_text(found, sign=True),
        )
        for site, gain in sites.items()
        for key, found in gain.items()
    ]
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    if not ends:
        return None
    ticks = ticks_of(min(*ends, 0.0), max(*ends, 0.0))
    axis = Axis("AUROC minus that of local training", ticks[0][0], ticks[-1][0], ticks)
    return Forest(
        "Gain over local training", "Where an interval crosses the line at 0 there is no evidence.", axis, rows
    )
