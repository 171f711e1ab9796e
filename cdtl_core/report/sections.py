"""Report sections of scores, rounds and matrices; a section without data gives the reason in a sentence."""

from collections.abc import Sequence

from cdtl_core.federation.journal import Journal
from cdtl_core.metrics.summary import registered_metrics
from cdtl_core.report.charts.blend_figures import (
    blend_heats,
    donor_forest,
    donor_heat,
    matrix_heat,
    retention_sentence,
    shares_sentence,
)
from cdtl_core.report.charts.figure import Chart, Figure, Table
from cdtl_core.report.charts.round_figures import presence, round_charts
from cdtl_core.report.charts.score_figures import (
    confusion_heat,
    histogram,
    operation_of,
    pr_chart,
    reliability_chart,
    roc_chart,
)
from cdtl_core.report.charts.styles import method_name, method_style
from cdtl_core.report.headline import SEED_NOTE, gain_forest, headline_of
from cdtl_core.report.page import Block, Fold, Grid, Headline, Headlines, Note, Section
from cdtl_core.results.material import Material
from cdtl_core.results.report import Estimate
from cdtl_core.results.text import estimate_text, plain, plural

__all__ = ["absence", "blend", "calibration", "discrimination", "donors", "operating", "rounds", "summary"]

_POOL_NOTE = (
    "The pool adds the logits of the site's own model and of the joint model with these weights. The validation "
    "log-loss chooses the model; figures of test patients, each calibrated where the site could, were not used."
)


def summary(found: Sequence[Material], unfinished: str) -> Section:
    """Return a sentence per site, and the pools; `unfinished` is the sentence for a site without a model."""
    items = []
    for one in found:
        if one.main is None:
            items.append(Headline(one.site, one.about, "open", unfinished))
            continue
        items.append(
            headline_of(
                one.site,
                one.about,
                main=one.main,
                results=one.results,
                gain=one.gain,
                log_loss_change=one.log_loss_change,
                selection=one.selection,
                test_patients=one.test[one.main].num_patients,
                unit=one.test[one.main].unit,
            )
        )
    forest = gain_forest({one.site: one.gain for one in found})
    pools = _pools(found)
    figures = [one for one in (forest, pools) if one is not None]
    blocks: list[Block] = [Headlines(items)]
    blocks += [Grid(figures, beside=len(figures) > 1)] if figures else []
    blocks += [*([Note(_POOL_NOTE)] if pools else []), *([Note(SEED_NOTE)] if forest else [])]
    return Section("summary", blocks if found else [], "" if found else unfinished)


def discrimination(found: Sequence[Material], seed: int, why: str) -> Section:
    """Return ROC and precision-recall.

    Args:
        found: Results of the sites.
        seed: Seed of the bootstrap.
        why: Reason for an empty section.
    """
    ended = [(one, one.main) for one in found if one.main]
    roc = [roc_chart(one.site, one.test, main, seed) for one, main in ended]
    precise = [pr_chart(one.site, one.test, main, seed) for one, main in ended]
    if not any(roc):
        return Section("discrimination", [], why or f"The test {_units(found)} of no site hold both classes.")
    lead = f"Test {_units(found)} only. The band is a pointwise 95 % interval over resampled patients."
    both = [Grid(_known(roc + precise))] if len(ended) == 1 else []
    apart = [Grid(_known(roc), "ROC"), Grid(_known(precise), "Precision and recall")]
    return Section("discrimination", [*(both or apart), _figures(found)], lead=lead)


def calibration(found: Sequence[Material], why: str) -> Section:
    """Return reliability diagrams."""
    ended = [(one, one.main) for one in found if one.main]
    charts = [reliability_chart(one.site, one.test[main], method_style(main)) for one, main in ended]
    raw = [one.site for one, main in ended if not one.test[main].is_calibrated]
    lead = (
        f"Test {_units(found)} in tenths of the probability of the model that the site uses. Bars are Wilson's 95 % "
        "intervals "
        "with the number of patients."
    )
    if raw:
        lead += f" Not calibrated, for lack of 20 validation patients: {', '.join(raw)}."
    blocks: list[Block] = [Grid(charts)]
    return Section("calibration", blocks if charts else [], "" if charts else why, lead if charts else "")


def operating(found: Sequence[Material], why: str) -> Section:
    """Return confusion matrices and histograms."""
    blocks: list[Block] = []
    for one in found:
        if not one.main:
            continue
        test, positive = one.test[one.main], one.card.positive if one.card else "positive"
        told = operation_of(test, one.val.get(one.main))
        c = told.confusion
        shares = (("sensitivity", c.sensitivity), ("specificity", c.specificity), ("precision", c.precision))
        rows = [
            (f"{name}, {share.part} of {share.whole}", estimate_text(Estimate.of(share.interval)))
            for name, share in shares
        ]
        table = Table(f"At the operating point, {one.site}", (f"of test {_units(found)}", "share (95 %)"), rows)
        heading = f"{one.site}: threshold {plain(c.threshold, 3)}, {told.why}"
        items: list[Figure] = [
            confusion_heat(one.site, told, positive),
            histogram(one.site, test, positive, c.threshold),
            table,
        ]
        blocks.append(Grid(items, heading))
    lead = (
        f"{_units(found).capitalize()} with a probability of the threshold or more are predicted positive. Intervals "
        "are Wilson's, over patients."
    )
    return Section("operating", blocks, "" if blocks else why, lead if blocks else "")


def rounds(journals: Sequence[Journal], main: str | None, timed: str) -> Section:
    """Return loss, AUROC, time and bytes by round and site; other methods are hidden until opened.

    Args:
        journals: Rounds by method.
        main: The main method.
        timed: Says what the seconds measure.
    """
    drawn: dict[str, list[Chart]] = {one.method: round_charts(one, one.sites) for one in journals if one.rounds}
    if not drawn:
        return Section("rounds", [], "No round has ended yet.")
    first = main if main in drawn else list(drawn)[-1]
    blocks: list[Block] = [Grid(drawn[first], method_name(first))]
    blocks += [Fold(f"Rounds of {method_name(m)}", [Grid(charts)]) for m, charts in drawn.items() if m != first]
    lead = f"Loss and AUROC are those of the weights a site received, on its validation patients. {timed}"
    if any("val_loss" not in told for journal in journals for one in journal.rounds for told in one.sites.values()):
        lead += " A site with differential privacy sends no loss and no AUROC."
    return Section("rounds", blocks, lead=lead)


def donors(found: Sequence[Material], why: str) -> list[Block]:
    """Return the share of each donor at one site, or the transfer matrix of several; `why` if they are not known."""
    told = {one.site: one.selection.donor_shares for one in found if one.selection is not None}
    if not told:
        return []
    heat = donor_heat(told)
    figure = heat if len(told) > 1 or heat is None else donor_forest(*next(iter(told.items())))
    if figure is None:
        return [Note(why)]
    lead = (
        "The weight that fits the site's training patients best, for the own models of the other sites of each "
        "modality. Each of these models was trained without this site's patients, and the site's own model is judged "
        "on patients that it was not trained on. It describes: the model in use has one share for all other sites "
        "together."
    )
    return [Note(lead), Grid([figure], wide=True)]


def blend(
    journal: Journal | None,
    transfer: tuple[Sequence[str], Sequence[Sequence[float]]] | None,
    why: str,
    donors: Sequence[Block] = (),
) -> Section:
    """Return shares of donors, blend matrices by round, and the transfer over the whole run.

    Args:
        journal: Rounds of the main method.
        transfer: Groups and matrix over the whole run.
        why: Reason for an empty section.
        donors: Blocks with the donors' shares.
    """
    if journal is None or not journal.rounds or not journal.rounds[-1].groups:
        return Section("blend", donors, "" if donors else why)
    last = journal.rounds[-1]
    if len({tuple(map(tuple, one.matrix)) for one in journal.rounds}) == 1 and (
        told := shares_sentence(last.groups, last.matrix)
    ):
        return Section("blend", [*donors, Note(told)])
    heats = blend_heats(journal.rounds)
    blocks: list[Block] = []
    if transfer is not None:
        groups, shares = transfer
        says = f"With equal offsets in every round. {retention_sentence(groups, shares)}"
        blocks.append(Grid([matrix_heat("Transfer over the whole run", says, groups, shares, "ends with, of")]))
    blocks.append(Grid(heats, "Blend matrix by round"))
    note = Note(f"{method_name(journal.method)}, the rounds: each row is a modality and its shares; rows sum to 1.")
    return Section("blend", [*donors, note, *blocks])


def absence(journals: Sequence[Journal]) -> Section:
    """Return each site's presence by round."""
    known = [one for one in journals if one.rounds]
    if not known:
        return Section("absence", [], "No round has ended yet.")
    lead = "● took part, ○ not connected, ✕ no usable answer, ◆ privacy budget spent, + joined, · not a member yet."
    return Section("absence", [presence(one) for one in known], lead=lead)


def _units(found: Sequence[Material]) -> str:
    """Return what the sites' scores are of: images, exams or patients; one run has one kind."""
    return plural(next((scores.unit for one in found for scores in one.test.values()), "image"))


def _known(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _pools(found: Sequence[Material]) -> Table | None:
    """Return what each part of a site's model scored, beside its weight in the pool; None without a selection."""
    rows = []
    for one in found:
        choice = one.selection
        for name in choice.test_log_loss if choice else ():
            assert choice is not None  # noqa: S101
            used = " (used)" if name == choice.chosen else ""
            cells = (
                _weight(name, choice.share),
                plain(choice.validation_log_loss.get(name)),
                str(one.test[one.main].num_patients) if one.main else "–",
                plain(choice.test_auroc.get(name)),
                estimate_text(choice.test_log_loss[name]),
                estimate_text(choice.log_loss_minus_own.get(name), sign=True),
                plain(choice.test_ece.get(name)),
            )
            rows.append((one.site, f"{name}{used}", *cells))
    parts = ("site", "model", "weight in the pool", "validation log-loss", "test patients", "AUROC", "log-loss")
    headers = (*parts, "log-loss less own", "calibration error (ECE)")
    return Table("Pool and its parts, with 95 % intervals", headers, rows, numbers=2) if rows else None


def _weight(name: str, share: float | None) -> str:
    """Return the weight of a part in the pool; a dash for the pool itself, and without a pool."""
    if share is None or name == "pool":
        return "–"
    return "1" if name == "own" else plain(share, 2)


def _figures(found: Sequence[Material]) -> Fold:
    """Return all figures of all methods, as a table."""
    added = registered_metrics()
    names = ("auprc", "accuracy", "majority_rate", "balanced_accuracy", "f1", "log_loss", "brier", "ece", *added)
    rows = [
        (one.site, method_name(method), estimate_text(result.auroc), *(plain(result.metrics.get(n)) for n in names))
        for one in found
        for method, result in one.results.items()
    ]
    titles = ("average precision", "accuracy", "majority rate", "balanced accuracy", "F1", "log-loss", "Brier", "ECE")
    headers = ("site", "method", "AUROC (95 %)", *titles, *added)
    caption = f"Figures on test {_units(found)}; threshold 0.5 where one is needed"
    table = Table(caption, headers, rows, numbers=2)
    return Fold("All figures of all methods", [table])
