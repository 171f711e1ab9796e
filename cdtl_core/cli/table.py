"""The result of a run as a table for a person."""

from pathlib import Path

from rich import box
from rich.console import JustifyMethod
from rich.table import Table

from cdtl_core.cli.screen import open_console
from cdtl_core.reporting.report import Estimate, Report, SiteReport

__all__ = ["print_report"]

_WIDTH = 120
_TITLES = {"alone": "alone", "fedavg": "FedAvg", "cdtl": "CDTL"}


def print_report(report: Report, folder: Path) -> None:
    """Print one row per site and, below, what the figures are."""
    console = open_console(width=_WIDTH)
    title = f"{report.name}, seed {report.seed}, {report.rounds} rounds: test AUROC (95 % interval over patients)"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header, justify in _headers(report):
        table.add_column(header, justify=justify, overflow="fold")
    for site in report.sites:
        table.add_row(*_row(report, site), end_section=True)
    console.print(table)
    for line in _notes(report, folder):
        console.print(line, soft_wrap=True)


def _headers(report: Report) -> list[tuple[str, JustifyMethod]]:
    headers: list[tuple[str, JustifyMethod]] = [("site", "left"), ("patients\n(test)", "right")]
    headers += [(_TITLES[method], "center") for method in report.methods]
    if "cdtl" in report.methods:
        if "alone" in report.methods:
            headers.append(("CDTL - alone", "center"))
        headers += [("model\nused", "left"), ("MB a round\nsent/received", "right")]
    return headers


def _row(report: Report, site: SiteReport) -> list[str]:
    cells = [f"{site.name}\n{site.modality}", f"{site.num_patients}\n({site.patients.test})"]
    cells += [_estimate(site.results[method].auroc) for method in report.methods]
    if "cdtl" in report.methods:
        if "alone" in report.methods:
            cells.append(_estimate(site.gain["cdtl-alone"], sign="+"))
        crossed = site.bytes_per_round["cdtl"]
        cells.append(site.gate.chosen if site.gate else "")
        cells.append(f"{_megabytes(crossed.sent)}/{_megabytes(crossed.received)}")
    return cells


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
        notes.append("Images are SYNTHETIC phantoms: these figures say nothing about patients.")
    if "cdtl" in report.methods and "alone" in report.methods:
        notes.append(_verdict(report))
    notes += _privacy(report)
    if "retention" in report.blend:
        kept = ", ".join(f"{modality} {value:.2f}" for modality, value in report.blend["retention"].items())
        policy = report.blend["policy"] + (
            f" alpha {report.blend['alpha']}" if report.blend["policy"] == "fixed" else ""
        )
        notes.append(f"Blend {policy}; retention (own drift kept, 1: nothing crossed, 0: a uniform mixture): {kept}.")
    if any(result.auroc.low is None for site in report.sites for result in site.results.values()):
        notes.append("no interval: fewer than 10 test patients; such a figure is an anecdote.")
    notes.append(f"Models, scores and report.json are in {folder}.")
    return notes


def _privacy(report: Report) -> list[str]:
    """What each patient's privacy cost, by site and method, if any site trained with privacy."""
    lines = []
    for site in report.sites:
        for method, spent in site.privacy.items():
            end = f"; budget spent before round {spent.spent_in_round}" if spent.spent_in_round else ""
            lines.append(
                f"{site.name}, {_TITLES[method]}: epsilon {spent.epsilon_rdp:.2f} of {spent.target_epsilon:g} (RDP; "
                f"PRV {spent.epsilon_prv:.2f}) at delta {spent.target_delta:g} a patient, {spent.steps} steps{end}."
            )
    exempt = [site.name for site in report.sites if not site.privacy]
    return [*lines, f"Without differential privacy: {', '.join(exempt)}."] if lines and exempt else lines


def _verdict(report: Report) -> str:
    gains = {site.name: site.gain["cdtl-alone"] for site in report.sites}
    better = [name for name, gain in gains.items() if gain.low is not None and gain.low > 0]
    worse = [name for name, gain in gains.items() if gain.high is not None and gain.high < 0]
    return (
        f"CDTL better than alone beyond its interval: {', '.join(better) or 'at no site'}; "
        f"worse: {', '.join(worse) or 'at no site'}. Elsewhere there is no evidence of a difference."
    )
