"""A site's result as sentences: what it gained over training alone, how sure that is, and which model it uses."""

from collections.abc import Mapping, Sequence

from cdtl_core.reporting.figure import Axis, Forest, Row, ticks_of
from cdtl_core.reporting.numbers import estimate_text, plain, signed
from cdtl_core.reporting.page import Headline
from cdtl_core.reporting.report import Estimate, MethodResult, ModelChoice
from cdtl_core.reporting.styles import method_name, method_style

__all__ = ["SEED_NOTE", "gain_forest", "headline_of", "open_headline", "selection_sentence"]

SEED_NOTE = (
    "Intervals are 95\u00a0% percentile intervals of a paired bootstrap over test patients. They cover which patients "
    "were tested, not the seed: this is one run, and a claim of gain needs several (cdtl compare)."
)


def headline_of(
    site: str,
    about: str,
    *,
    main: str,
    results: Mapping[str, MethodResult],
    gain: Mapping[str, Estimate],
    selection: ModelChoice | None,
    test_patients: int,
) -> Headline:
    """The sentence of a site whose run has ended."""
    name, difference = method_name(main), gain.get(f"{main}-alone")
    more = [selection_sentence(selection)] if selection else []
    if main in results and difference is not None and "alone" in results:
        auroc, alone = results[main].auroc, results["alone"].auroc
        more.append(f"AUROC: {name} {estimate_text(auroc)}, alone {estimate_text(alone)}.")
    if difference is None or difference.value is None:
        told = estimate_text(results[main].auroc) if main in results else "unknown"
        why = "there is no model trained alone to compare with"
        return Headline(site, about, "open", f"AUROC of {name} on test patients: {told}; {why}.", more)
    amount = f"{signed(difference.value)} AUROC"
    if selection is not None and selection.chosen == "own":
        used = "its validation patients spoke against the pooled model, so the site uses the one it trained alone"
        return Headline(site, about, "none", f"No evidence of gain: {used}.", more)
    if difference.low is None or difference.high is None:
        few = f"only {test_patients} test patients allow no interval, so this figure is an anecdote"
        return Headline(site, about, "none", f"No evidence of gain: {amount} over training alone, but {few}.", more)
    interval = (
        f"95\u00a0% interval {signed(difference.low)} to {signed(difference.high)}, {test_patients} test patients"
    )
    if difference.low > 0:
        return Headline(site, about, "gain", f"{name} is better than training alone: {amount} ({interval}).", more)
    if difference.high < 0:
        return Headline(site, about, "loss", f"{name} is worse than training alone: {amount} ({interval}).", more)
    return Headline(
        site, about, "none", f"No evidence of gain: {amount} over training alone ({interval}, which contains 0).", more
    )


def open_headline(site: str, about: str, sentence: str, more: Sequence[str] = ()) -> Headline:
    """The sentence of a site of which no result is known here."""
    return Headline(site, about, "open", sentence, more)


def selection_sentence(choice: ModelChoice) -> str:
    """Which model the site uses, and how its own and the joint model were pooled."""
    losses = ", ".join(f"{name} {plain(loss, 4)}" for name, loss in choice.validation_log_loss.items())
    told = f"validation log-loss: {losses}" if losses else "no validation patients"
    if choice.share is None:
        return f"Model used: {choice.chosen}, the only one of this run ({told})."
    count = "1 patient" if choice.evidence_patients == 1 else f"{choice.evidence_patients} patients"
    why = f"evidence of {count}" if choice.share_by == "evidence" else "equal shares"
    pool = f"own and joint model 1 : {plain(choice.share, 2)} by {why}"
    if choice.chosen == "own":
        return f"Model used: the own one; the pool ({pool}) was worse on validation patients ({told})."
    return f"Model used: the pool, {pool} ({told}){_networks(choice)}."


def _networks(choice: ModelChoice) -> str:
    """What a prediction runs, where that is not one network as everywhere."""
    if not choice.networks_log_loss:
        return ", as two networks side by side" if choice.networks == 2 else ""
    one, two = (plain(choice.networks_log_loss[name], 4) for name in ("one", "two"))
    if choice.networks == 2:
        return f", as two networks side by side (validation log-loss {two}; one between them: {one})"
    return f", as one network between the two (validation log-loss {one}; two networks: {two})"


def gain_forest(sites: Mapping[str, Mapping[str, Estimate]]) -> Forest | None:
    """All sites' differences to training alone, one row per site and method; None if none is known."""
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
    axis = Axis("AUROC less that of training alone", ticks[0][0], ticks[-1][0], ticks)
    return Forest(
        "Gain over training alone", "Where an interval crosses the line at 0 there is no evidence.", axis, rows
    )
