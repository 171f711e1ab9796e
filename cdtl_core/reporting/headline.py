"""A site's result as sentences: what it gained over training alone, how sure that is, and what the gate decided."""

from collections.abc import Mapping, Sequence

from cdtl_core.reporting.figure import Axis, Forest, Row, ticks_of
from cdtl_core.reporting.numbers import estimate_text, plain, signed
from cdtl_core.reporting.page import Headline
from cdtl_core.reporting.report import Estimate, Gate, MethodResult
from cdtl_core.reporting.styles import method_name, method_style

__all__ = ["SEED_NOTE", "gain_forest", "gate_sentence", "headline_of", "open_headline"]

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
    gate: Gate | None,
    test_patients: int,
) -> Headline:
    """The sentence of a site whose run has ended."""
    name, difference = method_name(main), gain.get(f"{main}-alone")
    more = [gate_sentence(gate)] if gate else []
    if main in results and difference is not None and "alone" in results:
        auroc, alone = results[main].auroc, results["alone"].auroc
        more.append(f"AUROC: {name} {estimate_text(auroc)}, alone {estimate_text(alone)}.")
    if difference is None or difference.value is None:
        told = estimate_text(results[main].auroc) if main in results else "unknown"
        why = "there is no model trained alone to compare with"
        return Headline(site, about, "open", f"AUROC of {name} on test patients: {told}; {why}.", more)
    amount = f"{signed(difference.value)} AUROC"
    if gate is not None and gate.chosen == "alone":
        used = "the blended model was not clearly better, and the site uses the one it trained alone"
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


def gate_sentence(gate: Gate) -> str:
    """What the acceptance gate decided, on validation patients."""
    losses = ", ".join(f"{name} {plain(loss, 4)}" for name, loss in gate.validation_log_loss.items())
    if gate.accepted is None:
        return f"Gate: there was no alternative to the {gate.chosen} model (validation log-loss {losses})."
    if gate.accepted:
        return f"Gate: accepted the blended model (validation log-loss {losses})."
    why = "was not clearly better" if gate.chosen == "alone" else "was not the best"
    return f"Gate: the blended model {why}; the site uses the {gate.chosen} one (validation log-loss {losses})."


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
