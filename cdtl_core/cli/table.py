"""The results of a run as a table on the terminal."""

from pathlib import Path

from cdtl_core.cli.columns import Column, print_columns
from cdtl_core.cli.screen import open_console
from cdtl_core.report.charts.styles import method_name
from cdtl_core.results.report import Estimate, Report, SiteReport

__all__ = ["print_report"]


def print_report(report: Report, folder: Path) -> None:
    """Print one row per site, and notes that explain the figures."""
    console = open_console()
    title = f"{report.name}, seed {report.seed}, {report.rounds} rounds: test AUROC (95 % interval over patients)"
    print_columns(console, title, _columns(report))
    for line in _notes(report, folder):
        console.print(line, soft_wrap=True)


def _methods(report: Report) -> list[str]:
    """Return the methods with results: those of the run, and `alone` where a CDTL run trained the own model too."""
    return list(dict.fromkeys(method for site in report.sites for method in site.results))


def _columns(report: Report) -> list[Column]:
    sites, methods = report.sites, _methods(report)
    columns = [
        Column("site", [f"{site.name}\n{site.modality}" for site in sites], "left"),
        Column("patients\n(test)", [f"{site.num_patients}\n({site.patients.test})" for site in sites]),
    ]
    columns += [Column(method_name(method), [_result(site, method) for site in sites], "center") for method in methods]
    if "cdtl" not in report.methods:
        return columns
    if "alone" in methods:
        columns.append(
            Column("CDTL - local", [_estimate(site.gain["cdtl-alone"], sign="+") for site in sites], "center")
        )
    crossed = [site.bytes_per_round["cdtl"] for site in sites]
    return [
        *columns,
        Column("model used\nown : joint", [_used(site) for site in sites], "left"),
        Column("MB a round\nsent/received", [f"{_megabytes(x.sent)}/{_megabytes(x.received)}" for x in crossed]),
    ]


def _result(site: SiteReport, method: str) -> str:
    return _estimate(site.results[method].auroc) if method in site.results else "-"


def _used(site: SiteReport) -> str:
    """Return which model a site uses, and below it the weights of own and joint model in the pool."""
    choice = site.selection
    if choice is None:
        return ""
    return choice.chosen if choice.share is None else f"{choice.chosen}\n1 : {choice.share:.2f}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}" if count >= 50_000 else f"{count / 1e6:.3f}"


def _estimate(estimate: Estimate, sign: str = "") -> str:
    if estimate.value is None:
        return "-"
    value = f"{estimate.value:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{value}\nno interval"
    return f"{value}\n{estimate.low:{sign}.2f} to {estimate.high:{sign}.2f}"


def _notes(report: Report, folder: Path) -> list[str]:
    notes = []
    if any(site.synthetic for site in report.sites):
        notes.append("Images are SYNTHETIC phantoms: these figures have no medical meaning.")
    notes += _privacy(report)
    if "retention" in report.blend and report.blend["policy"] != "size":
        kept = ", ".join(f"{modality} {value:.2f}" for modality, value in report.blend["retention"].items())
        policy = report.blend["policy"] + (
            f" alpha {report.blend['alpha']}" if report.blend["policy"] == "fixed" else ""
        )
        notes.append(f"Blend {policy}; retention (own offset kept, 1: nothing crossed, 0: a uniform mixture): {kept}.")
    if any(result.auroc.low is None for site in report.sites for result in site.results.values()):
        notes.append("no interval: fewer than 10 test patients; such a figure is an anecdote.")
    notes.append(f"Completed: every site has its model. Models, scores and report.json are in {folder}.")
    if "cdtl" in report.methods and "alone" in _methods(report):
        notes += ["", *_verdict(report)]
    return notes


def _privacy(report: Report) -> list[str]:
    """Return a line for each site and method trained with differential privacy; empty if there is none."""
    lines = []
    for site in report.sites:
        for method, spent in site.privacy.items():
            end = f"; budget spent before round {spent.spent_in_round}" if spent.spent_in_round else ""
            lines.append(
                f"{site.name}, {method_name(method)}: epsilon {spent.epsilon_rdp:.2f} of {spent.target_epsilon:g} "
                f"(RDP; PRV {spent.epsilon_prv:.2f}) at delta {spent.target_delta:g} a patient, {spent.steps} "
                f"steps{end}."
            )
    exempt = [site.name for site in report.sites if not site.privacy]
    return [*lines, f"Without differential privacy: {', '.join(exempt)}."] if lines and exempt else lines


def _verdict(report: Report) -> list[str]:
    """Return each site's gain in words for a physician: AUROC is the share of pairs ranked in the right order."""
    lines = [f"Gain of each hospital over local training (of 100 pairs, one benign and one malignant {report.unit},"]
    lines.append("how many more the shared model ranks in the right order):")
    for site in report.sites:
        gain = site.gain.get("cdtl-alone")
        if gain is None or gain.value is None:
            lines.append(f"  {site.name}: not known.")
        elif gain.low is None or gain.high is None:
            lines.append(f"  {site.name}: {_pairs(gain.value)}; too few test patients to say how sure that is.")
        else:
            lines.append(
                f"  {site.name}: {_pairs(gain.value)} ({_pairs(gain.low)} to {_pairs(gain.high)}), {_word(gain)}."
            )
    return lines


def _word(gain: Estimate) -> str:
    if gain.low is not None and gain.low > 0:
        return "a gain"
    if gain.high is not None and gain.high < 0:
        return "a loss"
    return "no clear difference"


def _pairs(difference: float) -> str:
    return f"{100 * difference:+.1f}"
